" Vim syntax file
" Language: pbal, the configuration of a reverse proxy
" Made by python -m pbal.editors from the declarations of pbal

if exists("b:current_syntax")
  finish
endif

let s:cpo_save = &cpo
set cpo&vim

syn case ignore

syn match pbalStatement /^\s*\zs\%(ACCESS\s\+QUEUE_LOW\s\+NETMASK\|ACCESS\s\+ALLOW\s\+NETMASK\|ACCESS\s\+DENY\s\+NETMASK\|ACCESS\s\+QUEUE_LOW\s\+IP\|RELOAD\s\+CERTIFICATES\|SHOW\s\+PARKED\s\+SUMMARY\|SHOW\s\+COUNTERS\s\+LIKE\|SHOW\s\+CERTIFICATES\|SHOW\s\+CLIENTS\s\+LIKE\|SHUTDOWN\s\+GRACEFUL\|ACCESS\s\+ALLOW\s\+IP\|RELOAD\s\+PREVIOUS\|THROTTLE\s\+RELOAD\|ACCESS\s\+DENY\s\+IP\|CREATE\s\+SERVICE\|ACCESS\s\+POLICY\|REDIRECT\s\+HOST\|RELOAD\s\+CONFIG\|REPROXY_STATE\|SHOW\s\+PRESENCE\|SHOW\s\+TUNABLES\|SOCKS\s\+SUMMARY\|STATE\s\+CHANGES\|UNSET\s\+DEFAULT\|ACCESS\s\+RESET\|CONFIG\s\+DRIFT\|DROP\s\+SERVICE\|POLL\s\+PUBLISH\|SHOW\s\+LATENCY\|SHOW\s\+PLUGINS\|SHOW\s\+SERVICE\|SHOW\s\+TUNNELS\|SHOW\s\+VERSION\|UNSET\s\+SERVER\|CONFIG\s\+SAVE\|CREATE\s\+POOL\|MIME\s\+REMOVE\|POLL\s\+ANSWER\|POOL\s\+REMOVE\|SHOW\s\+ERRORS\|SHOW\s\+HEALTH\|SHOW\s\+LIMITS\|SHOW\s\+PARKED\|TUNNEL\s\+KICK\|DUMPCONFIG\|SHOW\s\+FILES\|SHOW\s\+NAMES\|SHOW\s\+NODES\|SHOW\s\+QUEUE\|SHOW\s\+RULES\|SHOW\s\+STORE\|XS\s\+DISABLE\|DROP\s\+POOL\|DROP\s\+RULE\|GLADIATOR\|MIME\s\+LIST\|POLL\s\+KICK\|POLL\s\+WAKE\|PROF\s\+DATA\|SHOW\s\+POOL\|SOCKS\s\+ALL\|XS\s\+ENABLE\|BACKENDS\|COMPLETE\|MIME\s\+SET\|NOVERIFY\|POOL\s\+ADD\|SHUTDOWN\|TERMINAL\|DEFAULT\|DISABLE\|EXPLAIN\|INCLUDE\|PENDING\|PLUGINS\|REWRITE\|VARSIZE\|VERBOSE\|VERSION\|ENABLE\|HEADER\|QUEUES\|RECENT\|RELOAD\|SERVER\|STATES\|UNLOAD\|UPTIME\|CACHE\|CHECK\|CRASH\|LEAKS\|LIMIT\|LOGIN\|NODES\|ROUTE\|STATS\|TRACE\|TRACK\|UNSET\|VHOST\|VPATH\|EXIT\|HELP\|LOAD\|MARK\|NODE\|POOL\|PROC\|PROF\|QUIT\|AIO\|OBJ\|SET\|USE\|FD\|XS\)\ze\%(\s\|$\)/
syn match pbalKeyword /\s\zs\%(CONCURRENT\|BECAUSE\|CHANGED\|BACKUP\|INSERT\|REMOVE\|WEIGHT\|BURST\|DRAIN\|LIMIT\|MAINT\|READY\|DOWN\|FROM\|JSON\|LIKE\|WHEN\|ADD\|DRY\|MAX\|RUN\|SET\|AS\|BY\|TO\|UP\)\ze\%(\s\|$\)/
syn match pbalTunable /\<\%(accesscontrol_use_observed_ip\|high_priority_cookie_contents\|buffer_upload_threshold_rate\|buffer_upload_threshold_size\|buffer_upload_threshold_time\|persist_client_idle_timeout\|throttle_threshold_seconds\|max_chunked_request_size\|notmodified_host_pattern\|trusted_upstream_proxies\|buffer_size_reproxy_url\|maintenance_retry_after\|max_reproxy_connections\|memcached_async_clients\|upload_status_listeners\|access_log_rotate_keep\|access_log_rotate_size\|buffer_backend_connect\|enable_concatenate_get\|ssl_honor_cipher_order\|accept_chunked_http10\|accept_proxy_protocol\|access_log_rotate_age\|backend_persist_cache\|reproxy_cache_maxsize\|ssl_handshake_timeout\|auth_request_timeout\|concatenate_max_size\|enable_error_retries\|error_page_intercept\|error_retry_schedule\|high_priority_cookie\|highpri_host_pattern\|node_max_connections\|buffer_uploads_path\|compress_min_length\|highpri_uri_pattern\|max_response_fields\|poll_max_by_address\|poll_presence_queue\|queue_relief_chance\|verify_backend_path\|client_sndbuf_size\|half_close_timeout\|header_underscores\|max_content_length\|max_request_fields\|plugin_error_limit\|poll_auth_audience\|poll_store_timeout\|poll_stream_buffer\|retry_budget_least\|send_backend_proto\|ssl_backend_verify\|ssl_handshake_rate\|access_log_format\|access_log_sample\|auth_request_copy\|auth_request_path\|dirindexing_limit\|file_cache_memory\|maintenance_allow\|max_response_head\|memcached_servers\|min_put_directory\|plugin_autoreload\|poll_allow_origin\|poll_auth_timeout\|poll_bad_position\|poll_max_by_queue\|poll_memory_limit\|poll_publish_from\|poll_socket_allow\|queue_relief_size\|send_backend_host\|send_backend_port\|access_log_query\|auth_request_ttl\|auth_request_uri\|basic_auth_realm\|blacklist_action\|client_keepalive\|file_cache_files\|graceful_timeout\|maintenance_page\|maintenance_path\|max_backend_uses\|max_request_head\|max_request_line\|poll_ack_timeout\|poll_publish_uri\|poll_stream_time\|resolve_interval\|response_timeout\|ssl_backend_name\|acme_challenges\|auth_request_by\|basic_auth_file\|basic_auth_path\|connect_timeout\|default_service\|eject_time_most\|follow_symlinks\|max_body_memory\|max_connections\|persist_backend\|poll_auth_token\|poll_key_prefix\|poll_max_parked\|poll_park_burst\|poll_store_auth\|ssl_cipher_list\|ssl_verify_mode\|always_trusted\|balance_method\|ban_expiration\|blacklist_file\|buffer_uploads\|check_interval\|compress_level\|compress_types\|default_action\|enable_reproxy\|header_timeout\|https_redirect\|max_concurrent\|min_body_grace\|persist_client\|poll_duplicate\|poll_heartbeat\|poll_max_queue\|poll_park_rate\|ssl_backend_ca\|ssl_host_check\|tunnel_timeout\|verify_backend\|verify_timeout\|whitelist_file\|ban_threshold\|cache_control\|check_timeout\|connect_ahead\|enable_delete\|fallback_pool\|initial_delay\|instance_name\|min_body_rate\|password_file\|poll_auth_ttl\|poll_interval\|poll_max_body\|poll_position\|poll_presence\|precompressed\|queue_timeout\|reproxy_allow\|server_tokens\|ssl_cert_file\|taken_timeout\|balance_hash\|check_method\|check_status\|eject_status\|file_recheck\|idle_timeout\|max_put_size\|method_regex\|poll_framing\|poll_methods\|poll_timeout\|reproxy_root\|retry_budget\|socket_group\|ssl_key_file\|blind_proxy\|buffer_size\|dirindexing\|drain_delay\|eject_after\|error_pages\|fallback_on\|index_files\|maintenance\|panic_share\|plugin_path\|poll_format\|socket_mode\|ssl_backend\|ssl_ca_path\|stall_after\|traceparent\|access_log\|check_fall\|check_host\|check_path\|check_port\|check_rise\|compatible\|eject_most\|eject_time\|enable_md5\|enable_put\|enable_ssl\|log_events\|log_format\|path_regex\|poll_batch\|poll_first\|poll_grace\|poll_queue\|poll_store\|poll_watch\|queue_size\|request_id\|send_proxy\|slow_start\|sticky_key\|dot_files\|forwarded\|log_level\|max_delay\|max_spool\|poll_auth\|poll_etag\|poll_keep\|compress\|log_only\|max_body\|nodefile\|poll_ttl\|poll_uri\|readonly\|docroot\|pidfile\|plugins\|listen\|log_to\|sticky\|check\|group\|hosts\|hsts\|open\|pool\|role\|user\)\ze\s*=/
syn region pbalValue matchgroup=pbalOperator start=/=/ end=/$/ end=/\ze\s#/ oneline keepend
      \ contains=pbalString,pbalVariable,pbalEscape,pbalChoice,pbalNumber
syn region pbalField matchgroup=pbalOperator start=/\%(\<INSERT\s\+[^[:blank:]:]\+\s*\)\@<=:/ end=/$/ end=/\ze\s#/ oneline keepend
      \ contains=pbalString,pbalVariable,pbalEscape
syn match pbalChoice /\%([=[:blank:],]\)\@<=\%(least_connections\|upload_tracker\|reverse_proxy\|1y\s\+immutable\|blacklisted\|certificate\|round_robin\|whitelisted\|concurrent\|management\|web_server\|colliding\|confirmed\|memcached\|netstring\|subscribe\|throttled\|anywhere\|combined\|no-cache\|no-store\|selector\|throttle\|OPTIONS\|cookie:\|failure\|header:\|newline\|perlbal\|publish\|request\|warning\|banned\|client\|common\|inside\|memory\|newest\|oldest\|query:\|random\|refuse\|stderr\|stdout\|syslog\|allow\|begin\|debug\|error\|lines\|never\|taken\|unban\|HEAD\|auto\|deny\|drop\|gzip\|hash\|http\|info\|json\|none\|pass\|path\|text\|zstd\|10m\|404\|4xx\|5xx\|GET\|all\|ban\|jwt\|new\|off\|p2c\|raw\|sni\|tcp\|ttl\|uri\|xml\|br\|on\|v1\|v2\)\ze\%([[:blank:],]\|$\)/ contained
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
