# fish: the program itself tells what could come next; where it knows nothing, files do.
function __xnetfrontd_complete
    set -l line (commandline -cp)
    set -l found (COMP_LINE="$line" /usr/bin/xnetfrontd 2>/dev/null)
    if set -q found[1]
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c xnetfrontd -f -a '(__xnetfrontd_complete)'
