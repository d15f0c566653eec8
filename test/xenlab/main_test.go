package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestAnUnknownPartIsRefusedWithTheKnownOnes(t *testing.T) {
	t.Setenv("XNETFRONTD_CACHE", t.TempDir())
	for _, args := range [][]string{
		{"test", "--guest-kernel", "5.4"},
		{"bench", "--guest-kernel", "5.4"},
		{"images", "--guest-kernel", "5.4"},
		{"test", "--dom0-kernel", "5.4"},
		{"images", "--dom0-kernel", "5.4", "--guest-kernel", "7.x"},
		{"test", "--xen", "5.4"},
		{"images", "--xen", "5.4"},
	} {
		var out, errs bytes.Buffer
		code := execute(append(args, "--source", "../.."), &out, &errs)
		want := "xenlab: " + args[1] + " 5.4: there is no such kernel in the lab; known are 6.12, 6.1, 7.x\n"
		if args[1] == "--xen" {
			want = "xenlab: --xen 5.4: there is no such Xen in the lab; known are 4.20, 4.17\n"
		}
		if code != exitUsage || errs.String() != want || out.Len() > 0 {
			t.Errorf("%q: exit %d, output %q, %q; want %d, %q", args, code, &out, &errs, exitUsage, want)
		}
	}
}

func TestImagesOfOnesOwnHaveTheirParts(t *testing.T) {
	var out, errs bytes.Buffer
	code := execute([]string{"test", "--images", t.TempDir(), "--guest-kernel", "7.x", "--source", "../.."}, &out, &errs)
	if code != exitUsage || !strings.Contains(errs.String(), "leave out --guest-kernel") {
		t.Errorf("exit %d, %q", code, &errs)
	}
}
