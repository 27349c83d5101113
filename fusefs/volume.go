package fusefs

import (
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// volumeSeconds is how long the kernel may keep names of branches and buckets.
// It is told of changes too; this is for what it cannot be told of.
const volumeSeconds = 1

// volume returns the branch as the mount shows it.
func (fs *fileSystem) volume(tx *schema.Tx, branch int64) (*volume, error) {
	fs.vols.Lock()
	vol := fs.vols.open[branch]
	fs.vols.Unlock()
	if vol != nil {
		return vol, nil
	}
	vol, err := fs.openVolume(tx, branch)
	if err != nil {
		return nil, err
	}
	fs.vols.Lock()
	defer fs.vols.Unlock()
	if first := fs.vols.open[branch]; first != nil {
		return first, nil
	}
	fs.vols.open[branch] = vol
	return vol, nil
}

func (fs *fileSystem) openVolume(tx *schema.Tx, branch int64) (*volume, error) {
	view, err := fs.tree.View(tx, branch, fs.opts.At)
	if err != nil {
		return nil, err
	}
	vol := &volume{view: view.WithOrigin(fs.origin), branch: branch}
	if fs.opts.Branch == "" {
		vol.mix = scatter(uint64(branch))
	}
	for b := view.Branch(); fs.opts.At == 0; {
		vol.follows = append(vol.follows, b.ID)
		if !b.Live {
			break
		}
		if b, err = fs.tree.BranchByID(tx, b.Parent); err != nil {
			return nil, err
		}
	}
	return vol, nil
}

// scatter makes of a small number a 63-bit one that is far from all others
// (the finalizer of splitmix64).
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x ^ x>>31) >> 1
}

// root makes the node of the mount's root.
func (fs *fileSystem) root() (n *node, err error) {
	n = new(node)
	err = fs.db.Read(func(tx *schema.Tx) error {
		if fs.opts.Bucket == "" {
			return nil
		}
		bucket, err := fs.tree.Bucket(tx, fs.opts.Bucket)
		if err != nil {
			return err
		}
		n.bucket = bucket.ID
		if fs.opts.Branch == "" {
			return nil
		}
		branch, err := fs.tree.Branch(tx, bucket.ID, fs.opts.Branch)
		if err != nil {
			return err
		}
		if n.vol, err = fs.volume(tx, branch.ID); err != nil {
			return err
		}
		n.ino = n.vol.view.Root()
		return nil
	})
	return n, err
}

// lookupVolume finds a bucket, or a branch and its root directory.
func (fs *fileSystem) lookupVolume(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	var n *node
	var in pathtree.Inode
	err := fs.db.Read(func(tx *schema.Tx) error {
		if dir.bucket == 0 {
			bucket, err := fs.tree.Bucket(tx, name)
			if err == nil {
				n = fs.nodes.enter(nil, bucket.ID, 0, dir.id, name)
			}
			return err
		}
		branch, err := fs.tree.Branch(tx, dir.bucket, name)
		if err != nil {
			return err
		}
		n, in, err = fs.enterBranch(tx, dir, branch)
		return err
	})
	if err != nil {
		return status(err)
	}
	fs.fillVolume(n, &in, out)
	return fuse.OK
}

// enterBranch counts a lookup of the root directory of a branch.
func (fs *fileSystem) enterBranch(tx *schema.Tx, dir *node, branch pathtree.Branch) (*node, pathtree.Inode, error) {
	vol, err := fs.volume(tx, branch.ID)
	if err != nil {
		return nil, pathtree.Inode{}, err
	}
	in, err := vol.view.Inode(tx, vol.view.Root())
	if err != nil {
		return nil, in, err
	}
	n := fs.nodes.enter(vol, 0, in.Ino, dir.id, branch.Name)
	n.store(&in)
	return n, in, nil
}

func (fs *fileSystem) fillVolume(n *node, in *pathtree.Inode, out *fuse.EntryOut) {
	out.NodeId = n.id
	out.EntryValid, out.AttrValid = volumeSeconds, volumeSeconds
	if n.vol != nil {
		fs.fillAttr(n.vol, in, &out.Attr)
		return
	}
	fs.fillVolumeDir(n, &out.Attr)
}

// fillVolumeDir describes a directory of buckets or branches.
func (fs *fileSystem) fillVolumeDir(n *node, out *fuse.Attr) {
	out.Ino = volumeDirIno(n.bucket)
	out.Mode = syscall.S_IFDIR | 0o755
	out.Nlink = 2
	out.Blksize = 4096
	out.Uid, out.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	fs.override(out)
}

func volumeDirIno(bucket int64) uint64 {
	if bucket == 0 {
		return fuse.FUSE_ROOT_ID
	}
	return scatter(uint64(-bucket))
}

// forkMain makes a branch of main: mkdir at the level of branches.
func (fs *fileSystem) forkMain(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	if dir.bucket == 0 {
		return fuse.EPERM // a bucket is made by other means
	}
	var n *node
	var in pathtree.Inode
	err := fs.db.Write(func(tx *schema.Tx) error {
		main, err := fs.tree.Branch(tx, dir.bucket, "main")
		if err != nil {
			return err
		}
		branch, err := fs.tree.CreateBranch(tx, dir.bucket, name, pathtree.Origin{Branch: main.ID})
		if err != nil {
			return err
		}
		n, in, err = fs.enterBranch(tx, dir, branch)
		return err
	})
	if err != nil {
		return fs.undo(n, err)
	}
	fs.fillVolume(n, &in, out)
	return fuse.OK
}

// volumeEntries lists a directory of buckets or branches.
func (fs *fileSystem) volumeEntries(dir *node) (list []pathtree.Entry, err error) {
	err = fs.db.Read(func(tx *schema.Tx) error {
		if dir.bucket == 0 {
			buckets, err := fs.tree.Buckets(tx)
			for _, b := range buckets {
				list = append(list, pathtree.Entry{Name: b.Name, Ino: pathtree.Ino(volumeDirIno(b.ID)), Kind: syscall.S_IFDIR})
			}
			return err
		}
		branches, err := fs.tree.Shown(tx, dir.bucket)
		if err != nil || len(branches) == 0 {
			return err
		}
		vol, err := fs.volume(tx, branches[0].ID)
		if err != nil {
			return err
		}
		for _, b := range branches {
			ino := uint64(vol.view.Root()) ^ scatter(uint64(b.ID))
			list = append(list, pathtree.Entry{Name: b.Name, Ino: pathtree.Ino(ino), Kind: syscall.S_IFDIR})
		}
		return nil
	})
	return list, err
}
