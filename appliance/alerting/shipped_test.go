package alerting

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// shippedSum is that of the shipped rules of shippedVersion. Files that clusters hold are replaced only when the version
// is greater than theirs: whoever changes a file counts it up, once between two releases.
const shippedSum = "08d54af94a1ef95ff46f4104290d383d45857f8bd2b060022d1ee26b46d875bb"

func TestShippedRulesChangeWithTheirVersion(t *testing.T) {
	files, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%d %s %q\n", shippedVersion, name, files[name])
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != shippedSum {
		t.Errorf("the shipped rules have the sum %s: count shippedVersion up if a release has the present one, and write down the sum", got)
	}
}

// A cluster that runs with the files of the first version gets those of this one, and what was turned off stays off.
func TestShippedRulesOfAnOlderReleaseAreReplaced(t *testing.T) {
	c := newFakeCluster(t, 2)
	old := FileRecord{
		Name: "triward", Version: 1, Origin: OriginShipped, Shipped: 1, Off: []string{"TriwardPushesBack"}, UpdatedBy: "triward",
		Body: "groups: [{name: triward, rules: [{alert: TriwardPushesBack, expr: up == 0}]}]\n",
	}
	own := old
	own.Name, own.Origin, own.Body = "hosts", OriginOperator, "groups: []\n"
	for _, rec := range []FileRecord{old, own} {
		if _, err := c.meta.commit("", Txn{Ops: []Op{{Bucket: BucketRules, Key: rec.Name, Value: encode(rec)}}}); err != nil {
			t.Fatal(err)
		}
	}
	c.step()
	c.run(2 * time.Second)
	files, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]FileRecord{
		"triward": {Version: 2, Shipped: shippedVersion, Origin: OriginShipped, Body: files["triward"], Off: old.Off},
		"events":  {Version: 1, Shipped: shippedVersion, Origin: OriginShipped, Body: files["events"]},
		"hosts":   {Version: 1, Shipped: 1, Origin: OriginOperator, Body: own.Body, Off: old.Off},
	} {
		v, _ := nodeMeta{c.meta, ""}.Get(BucketRules, name)
		var got FileRecord
		if err := json.Unmarshal(v.Data, &got); err != nil {
			t.Fatal(name, err)
		}
		if got.Version != want.Version || got.Shipped != want.Shipped || got.Origin != want.Origin || got.Body != want.Body || !slices.Equal(got.Off, want.Off) {
			t.Errorf("%s: version %d, shipped %d, %s, off %v, %d bytes", name, got.Version, got.Shipped, got.Origin, got.Off, len(got.Body))
		}
	}
}
