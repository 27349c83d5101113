package schema

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// A WAL is written as https://sqlite.org/fileformat2.html#walformat says: a
// header, then frames, each a header and a page.
const (
	frameHeader = 24
	framePage   = 4096
	gatherMost  = 31 * (frameHeader + framePage) // bytes; unixWrite cuts at 128 KiB
)

// vfsName is that of the VFS for connections that write. SQLite writes a commit
// to the WAL in two pwrites a page; this VFS gathers them into one. It is
// SQLite's own VFS for the rest.
//
// What it gathers are the frames that a transaction appends, until the page
// after a frame header with the commit mark has come: before the write of that
// page returns all is in the file, or the write fails and with it the commit.
// Only then does SQLite put the frames into the WAL index, where others find
// them. Frames that come before, when a large transaction spills its pages, wait
// no longer than until this connection reads the WAL; nobody else knows of them.
// They are dropped when the transaction's write lock is, because afterwards
// others write there. Whatever is not a frame appended goes to the file at once,
// after what was gathered: pages that the transaction spilled before and has
// changed since, and the checksums of all frames from there on.
//
// A write of gathered frames that fails is tried again by all that follows, so
// that no commit can come about without them: SQLite may undo the statement that
// was told, and go on.
//
// The rejected option, to gather only a frame's header and its page, need not
// know of locks and commits, and saves half as many writes.
const vfsName = "alkfs"

// vfsFile is what the VFS has of an open database or WAL, in SQLite's memory,
// behind what SQLite's own VFS has.
type vfsFile struct {
	methods lib.Tsqlite3_io_methods
	unix    uintptr // SQLite's own *lib.Tsqlite3_io_methods
	peer    uintptr // of a database its open WAL, of a WAL its database

	// Of a WAL:
	buf  uintptr // gatherMost bytes; 0 until needed
	n    int32   // bytes in it
	off  int64   // their place in the file
	end  int64   // where what the transaction has appended ends; 0 when it has nothing
	page pageDue
}

// pageDue says whether the next write must be the page of a frame.
type pageDue int32

const (
	noPage pageDue = iota
	somePage
	lastPage // of a commit
)

var (
	vfs       lib.Tsqlite3_vfs
	unixVFS   uintptr // SQLite's own
	vfsFileAt uintptr // where in a file's memory its vfsFile is
)

func registerVFS(tls *libc.TLS) error {
	if unixVFS = lib.Xsqlite3_vfs_find(tls, 0); unixVFS == 0 {
		return syscall.ENOMEM
	}
	name, err := libc.CString(vfsName)
	if err != nil {
		return err
	}
	vfs = *at[lib.Tsqlite3_vfs](unixVFS)
	const align = unsafe.Alignof(vfsFile{})
	vfsFileAt = (uintptr(vfs.FszOsFile) + align - 1) &^ (align - 1)
	vfs.FzName = name
	vfs.FszOsFile = int32(vfsFileAt + unsafe.Sizeof(vfsFile{}))
	vfs.FxOpen = cFunc(vfsOpen)
	return engineError(tls, lib.Xsqlite3_vfs_register(tls, uintptr(unsafe.Pointer(&vfs)), 0))
}

func fileOf(file uintptr) *vfsFile { return at[vfsFile](file + vfsFileAt) }

// own returns SQLite's own methods for f.
func (f *vfsFile) own() *lib.Tsqlite3_io_methods { return at[lib.Tsqlite3_io_methods](f.unix) }

type (
	closeFunc    = func(tls *libc.TLS, file uintptr) int32
	readFunc     = func(tls *libc.TLS, file, p uintptr, n int32, off int64) int32
	writeFunc    = readFunc
	truncateFunc = func(tls *libc.TLS, file uintptr, size int64) int32
	syncFunc     = func(tls *libc.TLS, file uintptr, flags int32) int32
	sizeFunc     = func(tls *libc.TLS, file, size uintptr) int32
	shmLockFunc  = func(tls *libc.TLS, file uintptr, first, n, flags int32) int32
	openFunc     = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32
)

func vfsOpen(tls *libc.TLS, _, name, file uintptr, flags int32, out uintptr) int32 {
	rc := goFunc[openFunc](at[lib.Tsqlite3_vfs](unixVFS).FxOpen)(tls, unixVFS, name, file, flags, out)
	isWAL := flags&lib.SQLITE_OPEN_WAL != 0
	if rc != lib.SQLITE_OK || !isWAL && flags&lib.SQLITE_OPEN_MAIN_DB == 0 {
		return rc
	}
	f, base := fileOf(file), at[lib.Tsqlite3_file](file)
	*f = vfsFile{unix: base.FpMethods}
	f.methods = *f.own()
	if isWAL {
		f.peer = lib.Xsqlite3_database_file_object(tls, name)
		fileOf(f.peer).peer = file
		f.methods.FxClose = cFunc(walClose)
		f.methods.FxRead = cFunc(walRead)
		f.methods.FxWrite = cFunc(walWrite)
		f.methods.FxTruncate = cFunc(walTruncate)
		f.methods.FxSync = cFunc(walSync)
		f.methods.FxFileSize = cFunc(walFileSize)
	} else {
		f.methods.FxShmLock = cFunc(dbShmLock)
	}
	base.FpMethods = file + vfsFileAt + unsafe.Offsetof(f.methods)
	return rc
}

// dbShmLock ends the WAL's part in a transaction that gives up its write lock.
func dbShmLock(tls *libc.TLS, file uintptr, first, n, flags int32) int32 {
	f := fileOf(file)
	const writeLock = 0 // WAL_WRITE_LOCK
	if first == writeLock && flags&lib.SQLITE_SHM_UNLOCK != 0 && f.peer != 0 {
		fileOf(f.peer).endTransaction()
	}
	return goFunc[shmLockFunc](f.own().FxShmLock)(tls, file, first, n, flags)
}

func (f *vfsFile) endTransaction() { f.n, f.end, f.page = 0, 0, noPage }

func walWrite(tls *libc.TLS, file, p uintptr, n int32, off int64) int32 {
	f := fileOf(file)
	due := f.page
	f.page = noPage
	if n == frameHeader {
		f.page = somePage
		if commit := at[[frameHeader]byte](p)[4:8]; binary.BigEndian.Uint32(commit) != 0 {
			f.page = lastPage
		}
	}
	gather := off >= f.end && (n == frameHeader || n == framePage && due != noPage)
	if !gather || off != f.off+int64(f.n) || f.n+n > gatherMost {
		if rc := f.flush(tls, file); rc != lib.SQLITE_OK {
			return rc
		}
	}
	if gather && f.buf == 0 {
		f.buf = libc.Xmalloc(tls, gatherMost)
		gather = f.buf != 0
	}
	f.end = max(f.end, off+int64(n))
	if !gather {
		return goFunc[writeFunc](f.own().FxWrite)(tls, file, p, n, off)
	}
	if f.n == 0 {
		f.off = off
	}
	libc.Xmemcpy(tls, f.buf+uintptr(f.n), p, libc.Tsize_t(n))
	f.n += n
	if due != lastPage {
		return lib.SQLITE_OK
	}
	rc := f.flush(tls, file)
	if rc != lib.SQLITE_OK {
		f.n = max(0, f.n-frameHeader-framePage) // the commit failed, and must not be made by who tries again
	}
	return rc
}

// flush writes what was gathered.
func (f *vfsFile) flush(tls *libc.TLS, file uintptr) int32 {
	if f.n == 0 {
		return lib.SQLITE_OK
	}
	rc := goFunc[writeFunc](f.own().FxWrite)(tls, file, f.buf, f.n, f.off)
	if rc == lib.SQLITE_OK {
		f.n = 0
	}
	return rc
}

func walRead(tls *libc.TLS, file, p uintptr, n int32, off int64) int32 {
	f := fileOf(file)
	if rc := f.flush(tls, file); rc != lib.SQLITE_OK {
		return rc
	}
	return goFunc[readFunc](f.own().FxRead)(tls, file, p, n, off)
}

func walTruncate(tls *libc.TLS, file uintptr, size int64) int32 {
	f := fileOf(file)
	if rc := f.flush(tls, file); rc != lib.SQLITE_OK {
		return rc
	}
	return goFunc[truncateFunc](f.own().FxTruncate)(tls, file, size)
}

func walSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	f := fileOf(file)
	if rc := f.flush(tls, file); rc != lib.SQLITE_OK {
		return rc
	}
	return goFunc[syncFunc](f.own().FxSync)(tls, file, flags)
}

func walFileSize(tls *libc.TLS, file, size uintptr) int32 {
	f := fileOf(file)
	if rc := f.flush(tls, file); rc != lib.SQLITE_OK {
		return rc
	}
	return goFunc[sizeFunc](f.own().FxFileSize)(tls, file, size)
}

func walClose(tls *libc.TLS, file uintptr) int32 {
	f := fileOf(file)
	fileOf(f.peer).peer = 0
	libc.Xfree(tls, f.buf)
	return goFunc[closeFunc](f.own().FxClose)(tls, file)
}
