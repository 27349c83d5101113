-- Format 15: compactions of shared buckets (crdtsync): what all changes up to some
-- marks came to, in the place of those changes.

CREATE TABLE sync_compaction (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  bucket INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  hash   BLOB NOT NULL,
  data   BLOB NOT NULL,                  -- signed
  state  INTEGER NOT NULL DEFAULT 0,     -- 1: its pack is in the tree, what that has replaced as well; 2: all of it is as if its changes had come
  taken  INTEGER NOT NULL DEFAULT 0,     -- pieces of its pack that are in the tree, in state 0
  UNIQUE (bucket, hash)
) STRICT;

CREATE TABLE sync_piece (                -- of the packs of compactions
  id     INTEGER PRIMARY KEY,
  bucket INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  hash   BLOB NOT NULL,
  data   BLOB NOT NULL,
  UNIQUE (bucket, hash)
) STRICT;

-- Documents of lesser generations are closed; and up to which number a pack is in
-- the place of the changes of a stream.
ALTER TABLE sync_bucket ADD COLUMN gen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sync_stream ADD COLUMN folded INTEGER NOT NULL DEFAULT 0;

-- A full document's changes go into its next generation.
ALTER TABLE sync_doc RENAME COLUMN bad TO full;

-- The last event when a session was recorded: until now in the digits of created below
-- a millisecond, and where an older alkfs had recorded it, in none. An event with a
-- later stamp was later for sure.
ALTER TABLE write_session ADD COLUMN began INTEGER NOT NULL DEFAULT 0;
UPDATE write_session SET began = min(
  (SELECT coalesce(max(seq), 0) - (coalesce(max(seq), 0) % 1000000 - created % 1000000 + 1000000) % 1000000 FROM event),
  coalesce((SELECT min(seq) - 1 FROM event e WHERE e.branch = write_session.branch AND e.ino = write_session.ino
    AND e.op = 5 AND e.stamp > (created / 1000000 << 16 | 65535)), 9223372036854775807));
UPDATE write_session SET created = created - created % 1000000;
