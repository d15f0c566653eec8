package figures

import (
	"fmt"
	"math"
	"slices"
)

// Spread is what a list of figures comes down to.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf returns the spread of at least one figure; of none, all are NaN.
func SpreadOf(figures []float64) Spread {
	if len(figures) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN()}
	}
	s := slices.Sorted(slices.Values(figures))
	n := len(s)
	return Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}

// String is the median, and where the figures lie.
func (s Spread) String() string {
	return fmt.Sprintf("%s (%s to %s)", Number(s.Median), Number(s.Min), Number(s.Max))
}

// Meets tells whether a ratio to the base reaches a bound, from above if less is the
// better. NaN reaches none.
func Meets(ratio, bound float64, less bool) bool {
	if less {
		return ratio <= bound
	}
	return ratio >= bound
}

// Verdict is Meets in words: the bound, and whether it is met. It is empty if the bound
// is 0, which is none.
func Verdict(ratio, bound float64, less bool) string {
	if bound == 0 {
		return ""
	}
	sign, word := "≥", "missed"
	if less {
		sign = "≤"
	}
	if Meets(ratio, bound, less) {
		word = "met"
	}
	return fmt.Sprintf("%s %s %6s", sign, Number(bound), word)
}
