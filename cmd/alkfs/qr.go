package main

import (
	"os"
	"strings"

	"golang.org/x/term"
	"rsc.io/qr"
)

// qrMargin is the light border that a QR code needs, in modules (ISO/IEC 18004,
// 6.3.8).
const qrMargin = 4

// printQR shows text as a QR code when standard output is a terminal that is
// wide enough. Case is not kept, which halves the code.
func (a *app) printQR(text string) error {
	f, ok := a.raw.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	code, err := qr.Encode(strings.ToUpper(text), qr.L)
	if err != nil {
		return err
	}
	if w, _, err := term.GetSize(int(f.Fd())); err != nil || w < code.Size+2*qrMargin {
		return err
	}
	a.printf("%s", drawQR(code))
	return nil
}

// drawQR draws two modules in each character, in black on white whatever the
// colours of the terminal are.
func drawQR(code *qr.Code) string {
	const on, off = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
	var b strings.Builder
	for y := -qrMargin; y < code.Size+qrMargin; y += 2 {
		b.WriteString(on)
		for x := -qrMargin; x < code.Size+qrMargin; x++ {
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString(off + "\n")
	}
	return b.String()
}
