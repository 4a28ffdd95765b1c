"""A syntax file for Vim and Neovim, and how they know a configuration when they see one."""

from collections.abc import Iterable

from pbal.editors.words import Words, longest_first

_SYNTAX = r"""" Vim syntax file
" Language: pbal, the configuration of a reverse proxy
" @MADE@

if exists("b:current_syntax")
  finish
endif

let s:cpo_save = &cpo
set cpo&vim

syn case ignore

syn match pbalStatement /^\s*\zs\%(@STATEMENTS@\)\ze\%(\s\|$\)/
syn match pbalKeyword /\s\zs\%(@INNER@\)\ze\%(\s\|$\)/
syn match pbalTunable /\<\%(@TUNABLES@\)\ze\s*=/
syn region pbalValue matchgroup=pbalOperator start=/=/ end=/$/ end=/\ze\s#/ oneline keepend
      \ contains=pbalString,pbalVariable,pbalEscape,pbalChoice,pbalNumber
syn region pbalField matchgroup=pbalOperator start=/\%(\<INSERT\s\+[^[:blank:]:]\+\s*\)\@<=:/ end=/$/ end=/\ze\s#/ oneline keepend
      \ contains=pbalString,pbalVariable,pbalEscape
syn match pbalChoice /\%([=[:blank:],]\)\@<=\%(@VALUES@\)\ze\%([[:blank:],]\|$\)/ contained
syn match pbalNumber /\%([=[:blank:],]\)\@<=\d\+\%(\.\d\+\)\?\%(ms\|[smhkgb]\)\?\ze\%([[:blank:],]\|$\)/ contained
syn region pbalString start=/"/ skip=/\\./ end=/"/ oneline contains=pbalVariable,pbalEscape
syn match pbalVariable /\$\%(\w\+\|{\w[^}]*}\)/
syn match pbalEscape /\$\$\ze[[:alnum:]_{]/
syn match pbalComment /\%(^\|[[:blank:]]\)\@<=#.*$/ contains=@Spell

hi def link pbalStatement Statement
hi def link pbalKeyword Keyword
hi def link pbalTunable Identifier
hi def link pbalOperator Operator
hi def link pbalChoice Constant
hi def link pbalNumber Number
hi def link pbalString String
hi def link pbalVariable PreProc
hi def link pbalEscape SpecialChar
hi def link pbalComment Comment

let b:current_syntax = "pbal"

let &cpo = s:cpo_save
unlet s:cpo_save
"""

_DETECT = r"""" @MADE@
" Known by its name, and any .conf by its first statements.
autocmd BufNewFile,BufRead *.pbal,pbal.conf,*/pbal/*.conf set filetype=pbal
autocmd BufRead *.conf
      \ if join(getline(1, 50), "\n") =~? '\%(^\|\n\)\s*CREATE\s\+\%(SERVICE\|POOL\)\s' |
      \   set filetype=pbal |
      \ endif
"""

_PLUGIN = r"""" @MADE@
if exists("b:did_ftplugin")
  finish
endif
let b:did_ftplugin = 1
setlocal comments=:# commentstring=#\ %s iskeyword+=- expandtab shiftwidth=2
let b:undo_ftplugin = "setlocal comments< commentstring< iskeyword< expandtab< shiftwidth<"
"""


def _alternatives(words: Iterable[str]) -> str:
    return r"\|".join(word.replace(" ", r"\s\+") for word in longest_first(words))


def files(known: Words, made: str) -> dict[str, str]:
    """By path below contrib/vim, which is a folder of 'runtimepath'."""
    syntax = _SYNTAX
    for name in ("statements", "inner", "tunables", "values"):
        syntax = syntax.replace(f"@{name.upper()}@", _alternatives(getattr(known, name)))
    texts = {"syntax": syntax, "ftdetect": _DETECT, "ftplugin": _PLUGIN}
    return {f"{folder}/pbal.vim": text.replace("@MADE@", made) for folder, text in texts.items()}
