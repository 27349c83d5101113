package alkfs

import "testing"

func TestBranchUsageCountsWhatABranchHasItself(t *testing.T) {
	s := openStore(t, t.TempDir())
	writeFile(t, openView(t, s, Spec{}), "f", content64K(1))
	if _, err := s.CreateBranch("", "b", BranchOptions{}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, openView(t, s, Spec{Branch: "b"}), "g", []byte("twelve bytes"))
	list, err := s.BranchUsage()
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	if b := list[0]; b.Branch != "b" || b.Bytes != 12 {
		t.Errorf("%+v", b)
	}
	if m := list[1]; m.Branch != "main" || m.Bytes != int64(len(content64K(1))) {
		t.Errorf("%+v", m)
	}
	st, err := s.Stats()
	if err != nil || st.DatabaseBytes == 0 || st.LastEvent == 0 || st.Writing != 0 || st.DiskFree == 0 || st.Transactions.Writes == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}
