package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) diffCommand() *cobra.Command {
	var at string
	var patch, stat, nameStatus, exitCode bool
	c := &cobra.Command{
		Use:   "diff [SPEC] [SPEC]",
		Short: "Show what differs between two branches, or two times of one",
		Long: `With two SPECs, shows what one must change to get from the first to the second.
With one, what was changed in it since it was forked, or with --at since then.
A path limits it to what is there and below. --at applies to the older side.

The letters: A added, D deleted, M other content, R renamed, T other type,
P other permissions or owner, X other extended attributes.`,
		Example: `  alkfs diff experiment               # what was changed there
  alkfs diff -p main /experiment:src
  alkfs diff --at "1h ago" :          # what was changed in the last hour`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json && patch {
				return usagef("--json lists the changes; -p is for people")
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				d, err := openDiff(s, args, at)
				if err != nil {
					return err
				}
				switch {
				case patch:
					err = a.printPatch(d)
				case stat && !a.json:
					err = a.printStat(d)
				default:
					err = a.printChanges(d.changes)
				}
				if err == nil && exitCode && len(d.changes) > 0 {
					err = silentError{statusError}
				}
				return err
			})
		},
		ValidArgsFunction: a.completeThen(2, a.completeSpecs),
	}
	atFlag(c, &at, "compare with what the (first) branch held")
	c.Flags().BoolVarP(&patch, "patch", "p", false, "print a patch that git apply takes")
	c.Flags().BoolVar(&stat, "stat", false, "count changed lines")
	c.Flags().BoolVar(&nameStatus, "name-status", false, "print a letter and a path for each change (the default)")
	c.Flags().BoolVar(&exitCode, "exit-code", false, "end with status 1 when there are differences")
	c.MarkFlagsMutuallyExclusive("patch", "stat", "name-status")
	return c
}

// difference is two views and what is between them.
type difference struct {
	old, new *alkfs.View
	changes  []alkfs.Change
}

func openDiff(s *alkfs.Store, args []string, at string) (d difference, err error) {
	specs := make([]alkfs.Spec, len(args))
	for i, arg := range args {
		if arg != "" && !strings.ContainsAny(arg, "/:") {
			arg = "/" + arg // a bare word is a branch, as in merge
		}
		if specs[i], err = alkfs.ParseSpec(arg); err != nil {
			return d, err
		}
	}
	last := alkfs.Spec{}
	if len(specs) > 0 {
		last = specs[len(specs)-1]
	}
	if d.new, err = s.View(last); err != nil {
		return d, err
	}
	under := last.Path
	older := last
	if len(specs) == 2 {
		older = specs[0]
		if under == "" {
			under = older.Path
		}
	}
	older.At = at
	switch {
	case len(specs) == 2 || at != "":
		d.old, err = s.View(older)
	default:
		var forked bool
		if d.old, forked, err = s.ForkView(last); err == nil && !forked {
			err = usagef("%s was not forked from another branch: name two branches, or a time with --at", last)
		}
	}
	if err == nil {
		d.changes, err = s.DiffViews(d.old, d.new, under)
	}
	return d, err
}

// letter is how a change is shown in lists.
func letter(c alkfs.Change) string {
	switch c.Kind {
	case alkfs.Added:
		return "A"
	case alkfs.Deleted:
		return "D"
	case alkfs.Modified:
		return "M"
	case alkfs.Renamed:
		return "R"
	case alkfs.TypeChanged:
		return "T"
	case alkfs.ModeChanged:
		return "P"
	}
	return "X"
}

// changeLine shows a change on a line. A renamed file may differ otherwise too.
func changeLine(c alkfs.Change) string {
	if c.Kind != alkfs.Renamed {
		return letter(c) + "  " + quote(c.Path) + slash(c)
	}
	more := ""
	if c.Content {
		more += "M"
	}
	if c.Attributes {
		more += "P"
	}
	return fmt.Sprintf("%-2s %s -> %s%s", letter(c)+more, quote(c.OldPath), quote(c.Path), slash(c))
}

func slash(c alkfs.Change) string {
	in := c.New
	if in == nil {
		in = c.Old
	}
	if in != nil && in.IsDir() {
		return "/"
	}
	return ""
}

func (a *app) printChanges(changes []alkfs.Change) error {
	for _, c := range changes {
		if !a.json {
			a.printf("%s\n", changeLine(c))
		} else if err := a.emit(changeFields(c)...); err != nil {
			return err
		}
	}
	return nil
}

func changeFields(c alkfs.Change) []any {
	fields := []any{"change", c.Kind.String(), "path", c.Path}
	if c.OldPath != "" {
		fields = append(fields, "old_path", c.OldPath)
	}
	for _, side := range []struct {
		name string
		in   *alkfs.Inode
	}{{"old", c.Old}, {"new", c.New}} {
		if side.in != nil {
			fields = append(fields, side.name, object{"type", typeName(side.in.FileMode()), "mode", octal(side.in.Mode),
				"uid", side.in.UID, "gid", side.in.GID, "size", side.in.Size, "hash", hashText(*side.in)})
		}
	}
	return append(fields, "content", c.Content, "attributes", c.Attributes, "xattrs", c.Xattrs)
}

// textMax is the size in bytes to which contents are compared by lines.
const textMax = 4 << 20

// sides returns both contents of a change, and whether they are text.
func (d difference) sides(c alkfs.Change) (old, new string, text bool, err error) {
	text = true
	read := func(v *alkfs.View, in *alkfs.Inode) string {
		switch {
		case err != nil || in == nil || in.IsDir():
			return ""
		case in.IsSymlink():
			return in.Target
		case !in.IsRegular():
			return ""
		case in.Size > textMax:
			text = false
			return ""
		}
		var p []byte
		p, err = v.ReadInode(*in)
		text = text && isText(p)
		return string(p)
	}
	old = read(d.old, c.Old)
	new = read(d.new, c.New)
	return old, new, text, err
}

func isText(p []byte) bool { return bytes.IndexByte(p[:min(len(p), 8000)], 0) < 0 }

// printPatch prints changes in the form of git, which git apply and patch -p1
// take. It knows only files: empty directories, owners and extended attributes
// have no place in it, and a renamed directory is the files in it renamed.
func (a *app) printPatch(d difference) error {
	listed := make(map[string]bool) // old paths that have a change of their own
	for _, c := range d.changes {
		if c.Old != nil {
			listed[oldPath(c)] = true
		}
	}
	for _, c := range d.changes {
		var parts []alkfs.Change
		switch {
		case c.Kind == alkfs.TypeChanged: // git shows it as two
			gone, come := c, c
			gone.Kind, gone.New = alkfs.Deleted, nil
			come.Kind, come.Old = alkfs.Added, nil
			parts = []alkfs.Change{gone, come}
		case c.Kind == alkfs.Renamed && c.Old.IsDir():
			if err := d.renamedFiles(oldPath(c), c.Path, listed, &parts); err != nil {
				return err
			}
		default:
			parts = []alkfs.Change{c}
		}
		for _, p := range parts {
			if slash(p) != "" {
				continue
			}
			if err := a.patchOne(d, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldPath is where what c is about was.
func oldPath(c alkfs.Change) string {
	if c.OldPath != "" {
		return c.OldPath
	}
	return c.Path
}

// renamedFiles adds a change for each file that was in the directory from and
// is in to now, except those listed.
func (d difference) renamedFiles(from, to string, listed map[string]bool, out *[]alkfs.Change) error {
	entries, err := d.old.ReadDir(from)
	for _, e := range entries {
		old, new := from+"/"+e.Name(), to+"/"+e.Name()
		if err != nil || listed[old] {
			continue
		}
		if e.IsDir() {
			err = d.renamedFiles(old, new, listed, out)
			continue
		}
		var st fs.FileInfo
		if st, err = e.Info(); err == nil {
			in := st.Sys().(alkfs.Inode)
			*out = append(*out, alkfs.Change{Kind: alkfs.Renamed, Path: new, OldPath: old, Old: &in, New: &in})
		}
	}
	return err
}

func (a *app) patchOne(d difference, c alkfs.Change) error {
	a.printf("diff --git %s %s\n", gitQuote("a/"+oldPath(c)), gitQuote("b/"+c.Path))
	from, to := gitQuote("a/"+oldPath(c)), gitQuote("b/"+c.Path)
	switch {
	case c.Old == nil:
		a.printf("new file mode %s\n", gitMode(c.New))
		from = "/dev/null"
	case c.New == nil:
		a.printf("deleted file mode %s\n", gitMode(c.Old))
		to = "/dev/null"
	default:
		if gitMode(c.Old) != gitMode(c.New) {
			a.printf("old mode %s\nnew mode %s\n", gitMode(c.Old), gitMode(c.New))
		}
		if oldPath(c) != c.Path {
			a.printf("rename from %s\nrename to %s\n", gitQuote(oldPath(c)), gitQuote(c.Path))
		}
	}
	if c.Old != nil && c.New != nil && !c.Content {
		return nil
	}
	old, new, text, err := d.sides(c)
	if err != nil {
		return err
	}
	if !text {
		a.printf("Binary files %s and %s differ\n", from, to)
		return nil
	}
	a.printf("%s", udiff.Unified(from, to, old, new))
	return nil
}

func gitMode(in *alkfs.Inode) string {
	switch {
	case in.IsSymlink():
		return "120000"
	case in.IsDir():
		return "040000"
	case in.Mode&0o111 != 0:
		return "100755"
	}
	return "100644"
}

// gitQuote quotes a path as git does when it has odd bytes.
func gitQuote(path string) string {
	odd := func(c byte) bool { return c < ' ' || c >= 0x7f || c == '"' || c == '\\' }
	var b strings.Builder
	quoted := false
	for _, c := range []byte(path) {
		if !odd(c) {
			b.WriteByte(c)
			continue
		}
		quoted = true
		switch c {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '\n':
			b.WriteString(`\n`)
		case '\t':
			b.WriteString(`\t`)
		default:
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	if !quoted {
		return path
	}
	return `"` + b.String() + `"`
}

func (a *app) printStat(d difference) error {
	var added, removed int
	for _, c := range d.changes {
		name := quote(c.Path) + slash(c)
		if c.Kind == alkfs.Renamed {
			name = quote(c.OldPath) + " -> " + name
		}
		old, new, text, err := d.sides(c)
		if err != nil {
			return err
		}
		switch {
		case !text:
			a.printf(" %-40s | binary, %s -> %s\n", name, sizeText(c.Old), sizeText(c.New))
		default:
			plus, minus := countLines(old, new)
			added, removed = added+plus, removed+minus
			a.printf(" %-40s | %4d %s%s\n", name, plus+minus, strings.Repeat("+", scaled(plus, plus+minus)), strings.Repeat("-", scaled(minus, plus+minus)))
		}
	}
	a.printf(" %d changes, %d lines added, %d removed\n", len(d.changes), added, removed)
	return nil
}

func sizeText(in *alkfs.Inode) string {
	if in == nil {
		return "nothing"
	}
	return bytesText(in.Size)
}

// scaled makes n of total fit a bar of 40.
func scaled(n, total int) int {
	if total <= 40 || n == 0 {
		return n
	}
	return max(1, n*40/total)
}

func countLines(old, new string) (plus, minus int) {
	for _, e := range udiff.Lines(old, new) {
		plus += lines(e.New)
		minus += lines(old[e.Start:e.End])
	}
	return plus, minus
}

func lines(s string) int {
	n := strings.Count(s, "\n")
	if s != "" && !strings.HasSuffix(s, "\n") {
		n++
	}
	return n
}
