package ring

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// The instructions are what the argument beside store stands on: a loop in their place
// could be kept from ending by the other side, and a plain store would order too little.
func TestStoreIsOneInstructionThatOrdersTheLoadsAfterIt(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		needs.LeaveOut(t, "the go command")
	}
	for arch, want := range map[string]string{"amd64": "XCHGL", "arm64": "STLRW"} {
		cmd := exec.Command("go", "build", "-gcflags=-S", ".")
		cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", arch, err, out)
		}
		if got := instructions(out, "store"); len(got) != 2 || got[0] != want || got[1] != "RET" {
			t.Errorf("%s: store is %q, want %s and RET", arch, got, want)
		}
	}
}

// instructions are the names of those of a function of this package, by the compiler's
// own listing.
func instructions(listing []byte, function string) (names []string) {
	inside := false
	for line := range bytes.Lines(listing) {
		text := string(line)
		if strings.Contains(text, " STEXT ") {
			inside = strings.Contains(text, "/ring."+function+" STEXT ")
			continue
		}
		f := strings.Split(strings.TrimSuffix(text, "\n"), "\t")
		if !inside || len(f) < 3 || f[0] != "" {
			continue
		}
		switch name := f[2]; name {
		case "TEXT", "FUNCDATA", "PCDATA":
		default:
			names = append(names, name)
		}
	}
	return names
}
