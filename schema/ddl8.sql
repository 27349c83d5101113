-- Format 8: content to bring from other nodes (package crdtsync/blobs, want.go).

CREATE TABLE sync_want (
  id       INTEGER PRIMARY KEY,
  hash     BLOB NOT NULL,
  size     INTEGER NOT NULL,             -- bytes of the content
  first    INTEGER NOT NULL,             -- groups of 16 KiB: the first, and how many
  count    INTEGER NOT NULL,
  priority INTEGER NOT NULL,             -- greater first: 0 eager, 1 pinned, 2 read-ahead, 3 a reader waits
  tries    INTEGER NOT NULL DEFAULT 0,   -- that failed
  due      INTEGER NOT NULL,             -- ns since 1970; not before
  added    INTEGER NOT NULL,             -- ns since 1970
  UNIQUE (hash, size, first, count)
) STRICT;
CREATE INDEX sync_want_by_turn ON sync_want (priority DESC, due);
