-- Format 11: bytes written over what an fsync recorded. overlay is a file in
-- staging/, '' for none, and over its runs, as pairs of uvarints: bytes since the
-- last run, length.

ALTER TABLE write_session ADD COLUMN overlay TEXT NOT NULL DEFAULT '';
ALTER TABLE write_session ADD COLUMN over BLOB;
