package main

import "github.com/spf13/cobra"

const specsHelp = `A SPEC is BUCKET[/BRANCH][:PATH].

  (nothing)             the root of default/main
  :src/a.go             a path in default/main
  /exp                  the branch exp of the bucket default
  /exp:src              a path in it
  work                  the branch main of the bucket work
  work/exp:src/a.go     all three

PATH is slash-separated from the root of the branch and may hold any bytes.
Where branches are meant (branch, snapshot, merge, diff) a bare word is a branch of
the bucket default: "exp" is "default/exp".

--at shows the branch as it was: at a snapshot of its bucket (by name), at a time
("2006-01-02T15:04:05Z", "2006-01-02 15:04" in the local zone, "2006-01-02"), or
some time ago ("10m ago", "2d ago", -1h30m, yesterday). History is kept for 7
days, and for ever where a snapshot or branch shows it.`

const jsonHelp = `With --json, commands that print data print JSON instead, to standard output.

A list (ls, tree, log, diff, bucket ls, branch ls, snapshot ls, sessions ls,
jobs ls, jobs history, lock ls, queue ls, user ls, peer ls, sync status, sync now,
sync branches, sync policy, pin ls, where, conflicts ls, restore, watch, stats --watch,
mount without arguments) is JSON lines: one object on each line. Any other answer is a
single object on one line. What only does something and says nothing else prints nothing.

Field names are lower case and stable; new ones may be added. Times are RFC 3339
in UTC, sizes are bytes, modes are octal strings ("0644"), hashes are BLAKE3-256
in hexadecimal. A name or path that is not UTF-8 has its odd bytes replaced by
U+FFFD, and its exact bytes in a further field, "path_base64" for "path".

Errors go to standard error as text, and show in the exit status.`

// helpTopics are pages of `alkfs help` that are no commands.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "specs", Short: "How buckets, branches, paths and times are named", Long: specsHelp},
		{Use: "json", Short: "What --json prints", Long: jsonHelp},
		{Use: "exit-status", Short: "What the exit status says", Long: exitStatusHelp},
	}
}
