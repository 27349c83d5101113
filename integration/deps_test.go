package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/alkdev/alkfs"

// mayImport names, for each package, which others of this module it may
// import: dependencies point one way. A package that is not listed here is one
// that nobody has decided about.
var mayImport = map[string][]string{
	"schema":         {},
	"latency":        {},
	"notify":         {"schema"},
	"blobstore":      {"schema"},
	"pathtree":       {"schema", "notify", "blobstore"},
	"writesession":   {"schema", "notify", "blobstore", "pathtree"},
	"fusefs":         {"schema", "notify", "blobstore", "pathtree", "writesession", "latency"},
	"sftpsrv/access": {"schema", "pathtree"},
	"sftpsrv":        {"schema", "notify", "blobstore", "pathtree", "writesession", "sftpsrv/access", "latency"},
	"crdtsync":       {"schema", "notify", "blobstore", "pathtree"},
	"":               {"schema", "notify", "blobstore", "pathtree", "writesession", "fusefs", "sftpsrv/access", "sftpsrv", "crdtsync", "latency"},
	"cmd":            {"", "latency"},
	"integration":    {"*"},
}

// only names, for each foreign import path (with all below it), the packages
// that may use it. Those a test file imports count as well, but integration
// may use anything.
var only = map[string][]string{
	"zombiezen.com/go/sqlite":        {"schema", "notify", "blobstore", "crdtsync", "pathtree", "writesession"},
	"modernc.org/sqlite":             {"schema"},
	"database/sql":                   {},
	"github.com/quic-go/quic-go":     {"crdtsync"},
	"github.com/automerge":           {"crdtsync"},
	"github.com/hashicorp/mdns":      {"crdtsync"},
	"github.com/miekg/dns":           {"crdtsync"},
	"github.com/hanwen/go-fuse/v2":   {"fusefs"},
	"github.com/pkg/sftp":            {"sftpsrv"},
	"golang.org/x/crypto/ssh":        {"sftpsrv"},
	"github.com/spf13/cobra":         {"cmd"},
	"github.com/spf13/pflag":         {"cmd"},
	"github.com/schollz/progressbar": {"cmd"},
	"github.com/zeebo/blake3":        {"blobstore"},
	"lukechampine.com/blake3":        {"blobstore"},
}

// tested is what only tests import.
const tested = "github.com/automerge"

type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// local returns the path of an import within the module and its first element.
func local(path string) (rel, top string, ok bool) {
	if path == module {
		return "", "", true
	}
	rel, ok = strings.CutPrefix(path, module+"/")
	top, _, _ = strings.Cut(rel, "/")
	return rel, top, ok
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range listPackages(t) {
		rel, top, _ := local(p.ImportPath)
		allowed, known := mayImport[top]
		if !known {
			t.Errorf("package %s has no line in mayImport", rel)
		}
		for _, imp := range p.Imports {
			_, to, ok := local(imp)
			if !ok || to == top || slices.Contains(allowed, "*") {
				continue
			}
			if !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s", p.ImportPath, imp)
			}
		}
	}
}

func TestForeignImportsStayInTheirPackage(t *testing.T) {
	for _, p := range listPackages(t) {
		_, top, _ := local(p.ImportPath)
		if top == "integration" {
			continue
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, tested) {
				t.Errorf("%s imports %s, which is for tests alone", p.ImportPath, imp)
			}
		}
		for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for foreign, users := range only {
				if imp != foreign && !strings.HasPrefix(imp, foreign+"/") {
					continue
				}
				if !slices.Contains(users, top) {
					t.Errorf("%s imports %s, which is for %v alone", p.ImportPath, imp, users)
				}
			}
		}
	}
}
