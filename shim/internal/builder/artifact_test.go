package builder

import (
	"context"
	"reflect"
	"testing"

	"github.com/hashicorp/packer-plugin-sdk/packer/registry/image"
	"github.com/mitchellh/mapstructure"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// What the service says for HCP Packer is, at Packer's end, what Packer makes registry images of. The
// Python side's test_artifact.py has the same.
func TestRegistryImages(t *testing.T) {
	fake := newFakePython(t)
	fake.state = func(request *contract.StateRequest) []byte {
		if request.Name != image.ArtifactStateURI {
			t.Errorf("asked for %q", request.Name)
		}
		return []byte(`[{"ImageID": "ami-1", "ProviderName": "osc", "ProviderRegion": "eu-west-2",
			"SourceImageID": "ami-0", "Labels": {"omi_name": "made", "snapshot_ids": "snap-1"}}]`)
	}
	fake.run = func(stream runStream) error { return sendAll(stream, finished()) }
	artifact, err := start(t, fake, context.Background(), newRecorder(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// The decoder of Packer's core (internal/hcp/registry).
	var images []image.Image
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &images, WeaklyTypedInput: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := decoder.Decode(artifact.State(image.ArtifactStateURI)); err != nil {
		t.Fatal(err)
	}
	want := []image.Image{{ImageID: "ami-1", ProviderName: "osc", ProviderRegion: "eu-west-2", SourceImageID: "ami-0",
		Labels: map[string]string{"omi_name": "made", "snapshot_ids": "snap-1"}}}
	if !reflect.DeepEqual(images, want) || images[0].Validate() != nil {
		t.Errorf("%#v", images)
	}
}
