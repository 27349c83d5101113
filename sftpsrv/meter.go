package sftpsrv

// Requests as they are counted: by their packet type, extensions together.
var opNames = []string{
	0: "other", fxpInit: "init", 2: "other", fxpOpen: "open", fxpClose: "close", fxpRead: "read", fxpWrite: "write",
	7: "lstat", fxpFstat: "fstat", 9: "setstat", fxpFsetstat: "fsetstat", 11: "opendir", 12: "readdir", 13: "remove",
	fxpMkdir: "mkdir", 15: "rmdir", 16: "realpath", 17: "stat", 18: "rename", 19: "readlink", 20: "symlink",
	opExtended: "extended",
}

const opExtended = 21

// opOf returns the place in opNames of a packet type.
func opOf(kind byte) int {
	switch {
	case kind == fxpExtended:
		return opExtended
	case kind < opExtended:
		return int(kind)
	}
	return 0
}
