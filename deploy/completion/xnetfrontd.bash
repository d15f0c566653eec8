# bash: the program itself tells what could come next; where it knows nothing, files do.
complete -o bashdefault -o default -C /usr/bin/xnetfrontd xnetfrontd
