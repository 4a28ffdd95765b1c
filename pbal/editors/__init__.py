"""What editors and shells know of pbal, from the declarations: contrib/vim, contrib/textmate, contrib/completion.

    python -m pbal.editors            writes the files
    python -m pbal.editors --check    writes nothing; exit status 1 if a file is not what would be written

Key words come from the grammar, tunables and the words that are values from their declarations, those of the plugins that come with pbal
included; sub-commands and options come from the command line's own parser. Nothing that the program knows is written down here a second
time: here is only how each editor and shell wants to be told.

A colouring reads one line at a time and knows no role, so it shows what is well formed, not what is right: `pbal check` says that.

    words.py       the words of the language
    vim.py         a syntax file for Vim and Neovim
    textmate.py    a grammar for TextMate and for what reads the same
    shells.py      completion for bash and zsh
"""
