// Package figures is what the benchmarks make of their samples: a median with its
// spread, tables for people, a chart (SVG), and files that are named after the time.
//
// Only ratios taken in one run can be compared with another day's or machine's, so the
// chart is one of ratios to a base that was measured beside.
package figures
