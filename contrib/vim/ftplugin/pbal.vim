" Made by python -m pbal.editors from the declarations of pbal
if exists("b:did_ftplugin")
  finish
endif
let b:did_ftplugin = 1
setlocal comments=:# commentstring=#\ %s iskeyword+=- expandtab shiftwidth=2
let b:undo_ftplugin = "setlocal comments< commentstring< iskeyword< expandtab< shiftwidth<"
