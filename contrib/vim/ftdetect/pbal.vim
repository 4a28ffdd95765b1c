" Made by python -m pbal.editors from the declarations of pbal
" Known by its name, and any .conf by its first statements.
autocmd BufNewFile,BufRead *.pbal,pbal.conf,*/pbal/*.conf set filetype=pbal
autocmd BufRead *.conf
      \ if join(getline(1, 50), "\n") =~? '\%(^\|\n\)\s*CREATE\s\+\%(SERVICE\|POOL\)\s' |
      \   set filetype=pbal |
      \ endif
