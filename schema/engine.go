package schema

import (
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// startEngine sets SQLite up for this process. It must come before the first
// connection.
var startEngine = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	if err := setPageCache(tls); err != nil {
		return fmt.Errorf("SQLite's page cache: %w", err)
	}
	if err := registerVFS(tls); err != nil {
		return fmt.Errorf("SQLite's files: %w", err)
	}
	return nil
})

// engineError is the error of a result code, nil for SQLITE_OK.
func engineError(tls *libc.TLS, rc int32) error {
	switch rc {
	case lib.SQLITE_OK:
		return nil
	case lib.SQLITE_NOMEM:
		return syscall.ENOMEM
	}
	return fmt.Errorf("%s", libc.GoString(lib.Xsqlite3_errstr(tls, rc)))
}

// at returns what SQLite has at an address, which is outside of Go's heap.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// cFunc returns a pointer to the function f, which is no closure, as SQLite has
// them; goFunc is its inverse (https://golang.org/s/go11func).
func cFunc[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&struct{ f F }{f})) }

func goFunc[F any](p uintptr) F { return *(*F)(unsafe.Pointer(&struct{ p uintptr }{p})) }
