package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

// completion is a cobra completion function.
type completion = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeThen completes the first n arguments with f and the others with files.
func (a *app) completeThen(n int, f completion) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return f(cmd, args, word)
	}
}

// completeEach completes the first argument with the first of fs, the second with the
// second, and those after the last with nothing.
func completeEach(fs ...completion) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(fs) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return fs[len(args)](cmd, args, word)
	}
}

// oneOf completes the words given.
func oneOf(words ...cobra.Completion) completion {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

var completeRoles = oneOf("ro\tread", "rw\tread and change", "admin\tlet others in, too")

// completeNothing is for what no store knows.
var completeNothing = oneOf()

// look opens the store for reading, and makes none.
func (a *app) look(f func(s *alkfs.Store) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	dir, err := a.storePath()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := alkfs.Open(context.Background(), dir, alkfs.Options{ReadOnly: true})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	return f(s), cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeBuckets(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	list, directive := a.look(func(s *alkfs.Store) []cobra.Completion { return bucketNames(s, word) })
	return list, directive &^ cobra.ShellCompDirectiveNoSpace
}

func bucketNames(s *alkfs.Store, word string) (out []cobra.Completion) {
	buckets, _ := s.Buckets()
	for _, b := range buckets {
		if strings.HasPrefix(b.Name, word) {
			out = append(out, b.Name)
		}
	}
	return out
}

// completePeers completes names of the members of the bucket that is the first argument.
func (a *app) completePeers(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	list, directive := a.look(func(s *alkfs.Store) (out []cobra.Completion) {
		all, _, _ := s.SyncStatus()
		for _, b := range all {
			for _, m := range b.Members {
				if b.Name == args[0] && strings.HasPrefix(m.Name, word) {
					out = append(out, m.Name+"\t"+m.Role.String())
				}
			}
		}
		return out
	})
	return list, directive &^ cobra.ShellCompDirectiveNoSpace
}

// completeBranches completes BRANCH and BUCKET/BRANCH.
func (a *app) completeBranches(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	list, directive := a.look(func(s *alkfs.Store) []cobra.Completion {
		if bucket, _, ok := strings.Cut(word, "/"); ok {
			return branchNames(s, bucket, bucket+"/", word)
		}
		out := branchNames(s, "", "", word)
		for _, b := range bucketNames(s, word) {
			if b != alkfs.DefaultBucket {
				out = append(out, b+"/")
			}
		}
		return out
	})
	return list, directive
}

func branchNames(s *alkfs.Store, bucket, prefix, word string) (out []cobra.Completion) {
	branches, _ := s.Branches(bucket)
	for _, b := range branches {
		if name := prefix + b.Name; strings.HasPrefix(name, word) {
			out = append(out, name)
		}
	}
	return out
}

// completeSpecs completes BUCKET[/BRANCH][:PATH].
func (a *app) completeSpecs(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.look(func(s *alkfs.Store) []cobra.Completion {
		where, path, hasPath := strings.Cut(word, ":")
		if hasPath {
			return pathNames(s, where, path)
		}
		if bucket, _, ok := strings.Cut(word, "/"); ok {
			var out []cobra.Completion
			for _, name := range branchNames(s, bucket, bucket+"/", word) {
				out = append(out, name, name+":")
			}
			return out
		}
		var out []cobra.Completion
		for _, name := range bucketNames(s, word) {
			out = append(out, name+"/", name+":")
		}
		if word == "" {
			out = append(out, ":")
		}
		return out
	})
}

// pathNames completes a path in a branch by the directory it is in.
func pathNames(s *alkfs.Store, where, path string) (out []cobra.Completion) {
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i+1], path[i+1:]
	}
	spec, err := alkfs.ParseSpec(where + ":" + dir)
	if err != nil {
		return nil
	}
	v, err := s.View(spec)
	if err != nil {
		return nil
	}
	entries, _ := v.ReadDir(fsPath(spec))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), base) || strings.ContainsAny(e.Name(), "\n\t") {
			continue
		}
		name := where + ":" + dir + e.Name()
		if e.IsDir() {
			name += "/"
		}
		out = append(out, name)
	}
	return out
}
