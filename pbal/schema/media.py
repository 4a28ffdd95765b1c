"""Media types by the endings of file names, and what MIME SET takes for one.

The table is pbal's own: Python's differs from version to version, and the system's from machine to machine. Types are those that IANA
has registered (https://www.iana.org/assignments/media-types/), or else the one that browsers know. An ending that many things have stands
for what it nearly always is, or for none.
"""

import re
from typing import Final

from pbal.schema.kinds import BadValue

UNKNOWN: Final = "application/octet-stream"
"""Of a name without an ending, or with one that nobody knows. Perlbal says text/plain, and so shows what it does not know."""

_TABLE: Final = """
text/html                                 html htm shtml
text/css                                  css
text/javascript                           js mjs
text/plain                                txt text log conf ini def list diff patch c h cc cpp cxx hh hpp java py rs go
text/markdown                             md markdown
text/csv                                  csv
text/tab-separated-values                 tsv
application/x-subrip                      srt
text/calendar                             ics ifb
text/vcard                                vcf vcard
text/vtt                                  vtt
text/xml                                  xsl
text/troff                                roff man
text/vnd.wap.wml                          wml
text/vnd.sun.j2me.app-descriptor          jad
application/json                          json map geojson topojson
application/ld+json                       jsonld
application/manifest+json                 webmanifest
application/xml                           xml xsd rng
application/xhtml+xml                     xhtml xht
application/xslt+xml                      xslt
application/xml-dtd                       dtd
application/rss+xml                       rss
application/atom+xml                      atom
application/opensearchdescription+xml     osdx
application/mathml+xml                    mathml
application/rdf+xml                       rdf
application/wsdl+xml                      wsdl
application/gpx+xml                       gpx
application/vnd.google-earth.kml+xml      kml
application/vnd.google-earth.kmz          kmz
application/yaml                          yaml yml
application/toml                          toml
application/sql                           sql
application/graphql                       graphql gql
application/wasm                          wasm
application/octet-stream                  bin so o a pyc
application/pdf                           pdf
application/postscript                    ps ai eps
application/rtf                           rtf
application/epub+zip                      epub
application/x-mobipocket-ebook            mobi prc
application/vnd.amazon.ebook              azw
application/msword                        doc dot
application/vnd.ms-excel                  xls xlt
application/vnd.ms-powerpoint             ppt pps pot
application/vnd.ms-outlook                msg
application/vnd.ms-fontobject             eot
application/vnd.ms-cab-compressed         cab
application/vnd.openxmlformats-officedocument.wordprocessingml.document    docx
application/vnd.openxmlformats-officedocument.wordprocessingml.template    dotx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet          xlsx
application/vnd.openxmlformats-officedocument.spreadsheetml.template       xltx
application/vnd.openxmlformats-officedocument.presentationml.presentation  pptx
application/vnd.openxmlformats-officedocument.presentationml.slideshow     ppsx
application/vnd.openxmlformats-officedocument.presentationml.template      potx
application/vnd.oasis.opendocument.text          odt
application/vnd.oasis.opendocument.spreadsheet   ods
application/vnd.oasis.opendocument.presentation  odp
application/vnd.oasis.opendocument.graphics      odg
application/vnd.oasis.opendocument.formula       odf
application/vnd.visio                     vsd vsdx
application/zip                           zip
application/gzip                          gz tgz
application/zstd                          zst
application/x-bzip2                       bz2 tbz
application/x-xz                          xz txz
application/x-lzma                        lzma
application/x-compress                    z
application/x-tar                         tar
application/x-cpio                        cpio
application/x-shar                        shar
application/x-7z-compressed               7z
application/vnd.rar                       rar
application/java-archive                  jar war ear
application/java-vm                       class
application/vnd.debian.binary-package     deb udeb
application/x-rpm                         rpm
application/vnd.android.package-archive   apk
application/x-apple-diskimage             dmg
application/vnd.apple.installer+xml       mpkg
application/x-iso9660-image               iso
application/x-msdownload                  dll
application/vnd.microsoft.portable-executable  exe
application/x-msi                         msi
application/x-xpinstall                   xpi
application/x-chrome-extension            crx
application/x-bittorrent                  torrent
application/x-shockwave-flash             swf
application/x-sh                          sh
application/x-csh                         csh
application/x-perl                        pl pm
application/x-httpd-php-source            phps
application/x-tcl                         tcl tk
application/x-tex                         tex
application/x-latex                       latex
application/x-texinfo                     texinfo texi
application/x-dvi                         dvi
application/x-bibtex                      bib
application/x-netcdf                      nc cdf
application/x-hdf                         hdf
application/vnd.apache.parquet            parquet
application/vnd.sqlite3                   sqlite sqlite3
application/vnd.apple.mpegurl             m3u8
application/dash+xml                      mpd
application/ogg                           ogx
application/smil+xml                      smil smi
application/pkcs7-mime                    p7m p7c
application/pkcs7-signature               p7s
application/pkcs8                         p8
application/pkcs10                        p10
application/x-pkcs12                      p12 pfx
application/pkix-cert                     cer
application/pkix-crl                      crl
application/x-x509-ca-cert                crt der
application/x-pem-file                    pem
application/pgp-encrypted                 pgp
application/pgp-signature                 sig asc
application/pgp-keys                      gpg
application/vnd.mozilla.xul+xml           xul
application/x-java-jnlp-file              jnlp
application/vnd.apple.pkpass              pkpass
image/png                                 png
image/jpeg                                jpg jpeg jpe jfif
image/gif                                 gif
image/webp                                webp
image/avif                                avif
image/jxl                                 jxl
image/heic                                heic
image/heif                                heif
image/svg+xml                             svg
image/vnd.microsoft.icon                  ico
image/apng                                apng
image/bmp                                 bmp
image/tiff                                tif tiff
image/jp2                                 jp2
image/vnd.djvu                            djvu djv
image/vnd.adobe.photoshop                 psd
image/vnd.wap.wbmp                        wbmp
image/x-portable-anymap                   pnm
image/x-portable-bitmap                   pbm
image/x-portable-graymap                  pgm
image/x-portable-pixmap                   ppm
image/x-xbitmap                           xbm
image/x-xpixmap                           xpm
image/ktx2                                ktx2
image/vnd.dxf                             dxf
font/woff2                                woff2
font/woff                                 woff
font/ttf                                  ttf
font/otf                                  otf
font/collection                           ttc
audio/mpeg                                mp3 mp2 mpga
audio/mp4                                 m4a
audio/aac                                 aac
audio/flac                                flac
audio/ogg                                 ogg oga opus spx
audio/wav                                 wav
audio/aiff                                aif aiff aifc
audio/basic                               au snd
audio/midi                                mid midi kar
audio/webm                                weba
audio/x-mpegurl                           m3u
audio/x-scpls                             pls
audio/x-ms-wma                            wma
audio/vnd.rn-realaudio                    ra
audio/matroska                            mka
video/mp4                                 mp4 m4v mp4v
video/webm                                webm
video/ogg                                 ogv
video/mpeg                                mpg mpeg mpe m2v
video/mp2t                                ts m2ts
video/quicktime                           mov qt
video/matroska                            mkv
video/x-msvideo                           avi
video/x-ms-wmv                            wmv
video/x-ms-asf                            asf asx
video/x-flv                               flv
video/3gpp                                3gp
video/3gpp2                               3g2
model/gltf+json                           gltf
model/gltf-binary                         glb
model/obj                                 obj
model/stl                                 stl
model/mtl                                 mtl
model/3mf                                 3mf
model/vnd.usdz+zip                        usdz
message/rfc822                            eml mht mhtml
"""

BUILT_IN: Final[dict[str, str]] = {ending: kind for kind, *endings in map(str.split, _TABLE.strip().split("\n")) for ending in endings}
"""Media types by endings, in lower case and without their dot."""

_ENDING: Final = re.compile(r"\.?([\w+-]{1,40})", re.ASCII)
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE: Final = re.compile(rf'{_TOKEN}/{_TOKEN}(?: *; *{_TOKEN}=(?:{_TOKEN}|"[\x20\x21\x23-\x5b\x5d-\x7e]*"))*')


def ending_of(text: str) -> str:
    """An ending, in lower case and without its dot. Raises: BadValue."""
    match = _ENDING.fullmatch(text)
    if match is None:
        expected = "the ending of a file name such as css"
        raise BadValue(f"expected {expected}, found {text!r}", expected=expected)
    return match[1].lower()


def media_type(text: str) -> str:
    """A media type, perhaps with parameters (RFC 9110 section 8.3.1). Raises: BadValue."""
    if len(text) > 200 or _MEDIA_TYPE.fullmatch(text) is None:
        expected = "a media type such as text/css, or text/plain; charset=iso-8859-1"
        raise BadValue(f"expected {expected}, found {text!r}", expected=expected)
    return text
