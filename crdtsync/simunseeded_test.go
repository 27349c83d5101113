//go:build !simseeded

package crdtsync

// What the runtime does at random is not the same in each run.
const simReplays = false

func seedRuntime(uint64) {}
func inOrder() func()    { return func() {} }
