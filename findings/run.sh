#!/bin/sh
# make findings: runs them all, a line for each. It fails if one of them has changed.
cd "$(dirname "$0")" || exit 1
result=0
for script in *-*.sh; do
	"./$script"
	[ $? != 1 ] || result=1
done
exit $result
