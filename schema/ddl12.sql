-- Format 12: content that the last version to go here named in a shared bucket. Other
-- members may have versions that name it, and not have the bytes.

CREATE TABLE guard (
  hash   BLOB NOT NULL,
  bucket INTEGER NOT NULL REFERENCES bucket ON DELETE CASCADE,
  since  INTEGER NOT NULL,               -- ns since 1970
  PRIMARY KEY (hash, bucket)
) STRICT, WITHOUT ROWID;
CREATE INDEX guard_by_bucket ON guard (bucket);
