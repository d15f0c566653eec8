package main

import (
	"os/exec"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// needrestart reads its configuration as Perl, evaluated where its settings are.
const needrestart = `
use strict;
our %nrconf = (blacklist_rc => [qr(^other)]);
my $text = do { local(@ARGV, $/) = $ARGV[0]; <> };
eval $text; die $@ if $@;
for my $unit (@ARGV[1 .. $#ARGV]) {
	print "$unit\n" if grep { $unit =~ /$_/ } @{$nrconf{blacklist_rc}};
}`

func TestNeedrestartLeavesTheHolderAloneAndNothingElse(t *testing.T) {
	needs.Program(t, "perl")
	out, err := exec.Command("perl", "-e", needrestart, "../../deploy/needrestart/xnetfrontd.conf",
		"xnetfrontd.service", "xnetfrontd-hold.service", "xnetfrontd-hold.socket", "other.service", "ssh.service").CombinedOutput()
	if err != nil || string(out) != "xnetfrontd-hold.service\nother.service\n" {
		t.Errorf("%v: %s", err, out)
	}
}
