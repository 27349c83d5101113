package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// object is a JSON object with its fields in order: names and values in turn.
// A string that is not UTF-8 gets a further field NAME_base64 with its bytes.
type object []any

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := 0; i+1 < len(o); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		name := o[i].(string)
		if err := appendField(&b, name, o[i+1]); err != nil {
			return nil, err
		}
		if s, ok := o[i+1].(string); ok && !utf8.ValidString(s) {
			b.WriteByte(',')
			if err := appendField(&b, name+"_base64", base64.StdEncoding.EncodeToString([]byte(s))); err != nil {
				return nil, err
			}
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func appendField(b *bytes.Buffer, name string, value any) error {
	fmt.Fprintf(b, "%q:", name)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's newline
	return nil
}

// emit prints one JSON object on a line.
func (a *app) emit(fields ...any) error {
	p, err := object(fields).MarshalJSON()
	if err != nil {
		return err
	}
	a.out.Write(p)
	return a.out.WriteByte('\n')
}

// printf prints for people.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// note says something that is not a result.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// quote returns s as it is when a terminal can show it, and otherwise as a
// shell takes it: $'caf\xe9'.
func quote(s string) string {
	if s != "" && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && n == 1, !unicode.IsPrint(r):
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteRune(r)
		}
		i += n
	}
	b.WriteByte('\'')
	return b.String()
}

// shellWord is s as one word of a shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_./:@%+=,-~", r))
	}
	if q := quote(s); strings.HasPrefix(q, "$'") || strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return q
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// bytesText spells a size in bytes for people.
func bytesText(n int64) string {
	if n < 0 {
		return "-" + bytesText(-n)
	}
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for ; f >= 1023.95 && i < len(units)-1; i++ {
		f /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func humanTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// typeName names the type of a file in JSON.
func typeName(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "dir"
	case fs.ModeSymlink:
		return "symlink"
	case fs.ModeNamedPipe:
		return "fifo"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "char"
	}
	return "file"
}

// modeText spells a mode as ls does: -rwxr-xr-x.
func modeText(mode fs.FileMode) string {
	kind := map[string]byte{"dir": 'd', "symlink": 'l', "fifo": 'p', "socket": 's', "block": 'b', "char": 'c', "file": '-'}[typeName(mode)]
	text := []byte(string(kind) + mode.Perm().String()[1:])
	for _, special := range []struct {
		bit      fs.FileMode
		at       int
		set, not byte
	}{{fs.ModeSetuid, 3, 's', 'S'}, {fs.ModeSetgid, 6, 's', 'S'}, {fs.ModeSticky, 9, 't', 'T'}} {
		if mode&special.bit != 0 {
			if text[special.at] == 'x' {
				text[special.at] = special.set
			} else {
				text[special.at] = special.not
			}
		}
	}
	return string(text)
}
