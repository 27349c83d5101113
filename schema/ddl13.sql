-- Format 13: the content of a version that is put aside (NULL where it is not known:
-- from before, or none), which the blob store is to keep.

ALTER TABLE aside ADD COLUMN hash BLOB;
CREATE INDEX aside_by_hash ON aside (hash) WHERE hash IS NOT NULL;
