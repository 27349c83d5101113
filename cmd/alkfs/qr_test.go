package main

import (
	"strings"
	"testing"

	"rsc.io/qr"
)

// What is drawn has every module of the code where it belongs, and its border.
func TestDrawQR(t *testing.T) {
	code, err := qr.Encode("ALKFS-"+strings.Repeat("ABCD234", 40), qr.L)
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[rune][2]bool{' ': {false, false}, '▀': {true, false}, '▄': {false, true}, '█': {true, true}}
	lines := strings.Split(strings.TrimSuffix(drawQR(code), "\n"), "\n")
	for i, line := range lines {
		_, line, _ = strings.Cut(line, "m")
		line, _ = strings.CutSuffix(line, "\x1b[0m")
		modules := []rune(line)
		if len(modules) != code.Size+2*qrMargin {
			t.Fatalf("line %d has %d modules, the code %d", i, len(modules), code.Size)
		}
		for j, m := range modules {
			for half, black := range blocks[m] {
				if x, y := j-qrMargin, 2*i+half-qrMargin; black != code.Black(x, y) {
					t.Fatalf("module %d,%d is wrong", x, y)
				}
			}
		}
	}
	if 2*len(lines) < code.Size+2*qrMargin {
		t.Errorf("%d lines for a code of %d", len(lines), code.Size)
	}
}
