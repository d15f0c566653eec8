package figures

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Save writes a result as JSON, and a chart if there is one, into dir, which it makes,
// and returns the paths. The files are named after the time, with suffix behind it.
func Save[R any](dir string, when time.Time, suffix string, result *R, svg []byte) (paths []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("save results: %w", err)
	}
	b, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("save results: %w", err)
	}
	base := filepath.Join(dir, when.Format("2006-01-02-150405")+suffix)
	for _, f := range []struct {
		path string
		data []byte
	}{{base + ".json", append(b, '\n')}, {base + ".svg", svg}} {
		if f.data == nil {
			continue
		}
		if err := os.WriteFile(f.path, f.data, 0o644); err != nil {
			return paths, fmt.Errorf("save results: %w", err)
		}
		paths = append(paths, f.path)
	}
	return paths, nil
}
