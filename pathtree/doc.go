// Package pathtree is the versioned tree of paths of a store: buckets, branches
// and snapshots, and what a view of them shows and changes.
//
// # Model
//
// A directory entry (dentry), an inode and an extended attribute are each a set
// of versions: rows that say what the thing became on a branch at a stamp. A
// view is a chain of (branch, bound): the branch itself, its parent up to the
// stamp of the fork, and so on. The nearest branch with a version within its
// bound decides, and there the newest version; a tombstone means absent. So a
// fork is one row, a snapshot is a name for (branch, stamp), the past is a
// bound, and none of them depends on the size of the tree.
//
// A live branch bounds its parent by nothing. There the groups of an inode
// (content, attributes, links) can come from different branches: a chmod here
// and a write there both show. Everywhere else the newest version alone is the
// answer, which is why rows are complete.
//
// # Invariants
//
//   - A child's id is greater than its parent's, and ids are never used again.
//   - An inode's versions begin no later than the first dentry that names it.
//   - nlink counts names; of a directory, 2 and its subdirectories. An inode
//     without a name stays, with nlink 0, until it is pruned.
//   - A version may be overwritten in place only by its own branch and node,
//     within a second, and above branch.sealed, the greatest stamp that a fork,
//     snapshot or merge can see. An inode then keeps its stamp, a dentry gets
//     a new one, and what was made and removed leaves no dentry. So two
//     readings of an inode can differ under one stamp: compare ctime as well.
//   - A directory's number derives from bucket, parent and name, so that one
//     made alike on two nodes or branches is the same. Other numbers are the
//     node's tag and a counter.
//
// # Use
//
// Every function works in the transaction it is given and is as durable as that
// one; a change and its event (package notify) are in the same. Trees and views
// are safe for concurrent use. Permissions are not checked here. Errors are an
// *Error around a syscall.Errno; Errno is the one table that maps any error.
//
// # Lookup
//
// One descending range over (branch, stamp) per thing is stepped in Go, and
// sought anew at the next element of the chain after a few rows that cannot be
// seen. Joining on the closure of the chain costs 0.5 ms at depth 1000; a plain
// range costs as much where thousands of sibling branches have versions of the
// one name. Full-path rows were rejected because renaming a directory would
// rewrite everything below it.
//
// What a head shows, and an operation found or made, is kept in memory (heads)
// until another process commits: most operations decide without a statement, and
// the rows they come to are written behind them (schema.Tx.Later). In a directory
// made meanwhile even a name that is not there costs nothing.
//
// # Diff and merge
//
// What can differ between two views are the things with a version that one of
// them sees past what the other does; Diff looks at those and at nothing else.
// Merge compares each thing that the source changed with the merge base and
// the destination. The base is the newest moment that both contain by forks and
// recorded merges, whatever their direction, so that nothing is asked twice.
// A thing is recognised by its inode number, and where a program replaced a
// file by a new one, by its place. What a merge or a restore comes to is laid
// over the view as one edit of one stamp: as a sequence of operations it would
// need an order, and there is none for names that are swapped. What a merge
// leaves as it was although the source has something newer to say, it writes
// again: the newest version that a branch has heard of is then the one that
// counts there, and two branches that have heard of the same show the same,
// whatever way it took. Without that a merge, which looks at what is news, would
// not see where they differ. It does not hold of a live branch, which hides what
// is newer in its parent; nor quite of a directory that was made and moved
// under several numbers on three or more branches, where after merges that cross
// each other two can differ in which of them has a file, until it is changed.
// No single tree of paths is ever built; the rejected merge of path lists
// cannot tell a rename from a deletion.
//
// # Many nodes
//
// A replica is a set of versions. ExportBucket returns what this node wrote,
// ImportBucket adds what others did, in any order; replicas that have the same
// versions show the same. RetractVersions takes some back. A version stands where
// its ID, stamp and node key, puts it; rows after it are completed anew by groups,
// link counts follow (linkcounter.go), and of two versions at one stamp one is put
// aside (table aside). Each version
// names the one it replaced: those that nobody replaced are heads, and heads
// that exclude each other are a conflict, whose loser is kept until it is
// resolved (contest.go). What several nodes wrote need not be a tree: the heads
// of branches, and only those, are repaired by rows that are derived and never
// exported (repair.go). Link counts of past views, and of directories on live
// branches, are approximate.
package pathtree
