// Package fusefs shows a store's branches as a file system mounted on Linux.
package fusefs
