package schema

import (
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// pendingByte is where SQLite's file locks are. The page it is in is never read
// or written.
const pendingByte = 1 << 30

// setPageCache has SQLite's page cache exchange the numbers of two pages
// without a look through all of it. A split of a b-tree page numbers its pages
// in ascending order (balance_nonroot), and while two exchange theirs, one is
// called by the number of the pending byte's page. The cache then takes 262145
// for the greatest number it has, and the next commit looks through every page
// for those beyond the end of the file. Page 0, which is none either, will do.
func setPageCache(tls *libc.TLS) error {
	methods := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(lib.Tsqlite3_pcache_methods2{})))
	if methods == 0 {
		return engineError(tls, lib.SQLITE_NOMEM)
	}
	defer libc.Xfree(tls, methods)
	args := libc.NewVaList(methods)
	if args == 0 {
		return engineError(tls, lib.SQLITE_NOMEM)
	}
	defer libc.Xfree(tls, args)
	rc := lib.Xsqlite3_config(tls, lib.SQLITE_CONFIG_GETPCACHE2, args)
	if rc == lib.SQLITE_OK {
		m := at[lib.Tsqlite3_pcache_methods2](methods)
		rekeyPage = goFunc[rekeyFunc](m.FxRekey)
		m.FxRekey = cFunc(rekey)
		rc = lib.Xsqlite3_config(tls, lib.SQLITE_CONFIG_PCACHE2, args)
	}
	return engineError(tls, rc)
}

type rekeyFunc = func(tls *libc.TLS, cache, page uintptr, from, to uint32)

// rekeyPage is SQLite's own xRekey.
var rekeyPage rekeyFunc

func rekey(tls *libc.TLS, cache, page uintptr, from, to uint32) {
	pending := uint32(pendingByte/at[lib.TPCache1](cache).FszPage + 1)
	if from == pending {
		from = 0
	}
	if to == pending {
		to = 0
	}
	rekeyPage(tls, cache, page, from, to)
}
