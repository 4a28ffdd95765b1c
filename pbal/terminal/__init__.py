"""`pbal console`: a client of the management console, for people at a terminal and for scripts.

It speaks to the port that telnet and scripts use, and has no way in that they do not have. What a statement is, what could stand where,
how a list is aligned and what an error says, the server knows (COMPLETE, TERMINAL, MARK); the client brings the keyboard and the screen.

    target.py       where the console is: an address, a socket, the .conf of a pbal, or the customary ports
    wire.py         one connection: statements out, answers in, each with its end
    batch.py        -e and standard input: for scripts
    shell.py        the prompt: statements in turn, reconnecting, Ctrl-C
    editing.py      the line on prompt_toolkit, with completion; without it, a plain line
    history.py      what was typed, in a file, and never a password
    interrupts.py   Control-C, where it does no harm
    screen.py       answers on the screen: paging, and nothing that would move the cursor
    watching.py     watch COMMAND: the same answer again and again
    top.py          top: a live view
    arguments.py    what the command line may say
    main.py         and what it starts
"""
