// A client of the API that owes nothing to this project: OUTSCALE's Go SDK, unmodified, goes through the
// life of a volume, a snapshot and an OMI. It takes the Region from the environment, and links the
// volume as the device name that it is given, if any. It ends with status 1 at the first surprise.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	osc "github.com/outscale/osc-sdk-go/v2"
)

const patience = 20 * time.Second

type region struct {
	client *osc.APIClient
	ctx    context.Context
}

func main() {
	config, err := osc.NewConfigEnv().Configuration()
	if err != nil {
		fail("configuration", err)
	}
	ctx := context.WithValue(context.Background(), osc.ContextAWSv4, osc.AWSv4{
		AccessKey: os.Getenv("OSC_ACCESS_KEY"),
		SecretKey: os.Getenv("OSC_SECRET_KEY"),
	})
	r := region{osc.NewAPIClient(config), ctx}
	device := ""
	if len(os.Args) > 1 {
		device = os.Args[1]
	}
	r.live(device)
	fmt.Println("done")
}

func (r region) live(device string) {
	vms, _, err := r.client.VmApi.ReadVms(r.ctx).ReadVmsRequest(osc.ReadVmsRequest{}).Execute()
	check("ReadVms", err)
	vm := (*vms.Vms)[0]
	source := r.image(nil)
	root := (*source.BlockDeviceMappings)[0].Bsu.GetSnapshotId()

	volume := r.volume(vm.Placement.GetSubregionName(), root)
	r.tag(volume, "made-by", "osc-sdk-go")
	if device != "" {
		r.link(volume, vm.GetVmId(), device)
	}
	snapshot := r.snapshot(volume)
	if device != "" {
		r.unlink(volume)
	}
	image := r.register(snapshot)

	_, answer, err := r.client.SnapshotApi.DeleteSnapshot(r.ctx).
		DeleteSnapshotRequest(*osc.NewDeleteSnapshotRequest(snapshot)).Execute()
	expect("DeleteSnapshot of a snapshot in use", answer, err, http.StatusConflict)

	_, _, err = r.client.ImageApi.DeleteImage(r.ctx).
		DeleteImageRequest(*osc.NewDeleteImageRequest(image)).Execute()
	check("DeleteImage", err)
	_, _, err = r.client.SnapshotApi.DeleteSnapshot(r.ctx).
		DeleteSnapshotRequest(*osc.NewDeleteSnapshotRequest(snapshot)).Execute()
	check("DeleteSnapshot", err)
	_, _, err = r.client.VolumeApi.DeleteVolume(r.ctx).
		DeleteVolumeRequest(*osc.NewDeleteVolumeRequest(volume)).Execute()
	check("DeleteVolume", err)
	until("the volume's end", func() bool { return len(r.volumes(volume)) == 0 })
}

func (r region) volume(subregion, snapshot string) string {
	asked := osc.NewCreateVolumeRequest(subregion)
	asked.SetSnapshotId(snapshot)
	asked.SetVolumeType("gp2")
	made, _, err := r.client.VolumeApi.CreateVolume(r.ctx).CreateVolumeRequest(*asked).Execute()
	check("CreateVolume", err)
	id := made.Volume.GetVolumeId()
	until("the volume", func() bool { return r.volumes(id)[0].GetState() == "available" })
	return id
}

func (r region) volumes(id string) []osc.Volume {
	asked := osc.ReadVolumesRequest{Filters: &osc.FiltersVolume{VolumeIds: &[]string{id}}}
	found, _, err := r.client.VolumeApi.ReadVolumes(r.ctx).ReadVolumesRequest(asked).Execute()
	check("ReadVolumes", err)
	return *found.Volumes
}

func (r region) tag(resource, key, value string) {
	asked := osc.NewCreateTagsRequest([]string{resource}, []osc.ResourceTag{{Key: key, Value: value}})
	_, _, err := r.client.TagApi.CreateTags(r.ctx).CreateTagsRequest(*asked).Execute()
	check("CreateTags", err)
	if tags := *r.volumes(resource)[0].Tags; len(tags) != 1 || tags[0].Value != value {
		fail("CreateTags", fmt.Errorf("the tags are %v", tags))
	}
}

func (r region) link(volume, vm, device string) {
	_, _, err := r.client.VolumeApi.LinkVolume(r.ctx).
		LinkVolumeRequest(*osc.NewLinkVolumeRequest(device, vm, volume)).Execute()
	check("LinkVolume", err)
	until("the link", func() bool {
		return (*r.volumes(volume)[0].LinkedVolumes)[0].GetState() == "attached"
	})
}

func (r region) unlink(volume string) {
	_, _, err := r.client.VolumeApi.UnlinkVolume(r.ctx).
		UnlinkVolumeRequest(*osc.NewUnlinkVolumeRequest(volume)).Execute()
	check("UnlinkVolume", err)
	until("the unlinking", func() bool { return r.volumes(volume)[0].GetState() == "available" })
}

func (r region) snapshot(volume string) string {
	asked := osc.NewCreateSnapshotRequest()
	asked.SetVolumeId(volume)
	made, _, err := r.client.SnapshotApi.CreateSnapshot(r.ctx).CreateSnapshotRequest(*asked).Execute()
	check("CreateSnapshot", err)
	id := made.Snapshot.GetSnapshotId()
	until("the snapshot", func() bool {
		wanted := osc.FiltersSnapshot{SnapshotIds: &[]string{id}, States: &[]string{"completed"}}
		found, _, err := r.client.SnapshotApi.ReadSnapshots(r.ctx).
			ReadSnapshotsRequest(osc.ReadSnapshotsRequest{Filters: &wanted}).Execute()
		check("ReadSnapshots", err)
		return len(*found.Snapshots) == 1
	})
	return id
}

func (r region) image(filters *osc.FiltersImage) osc.Image {
	asked := osc.ReadImagesRequest{Filters: filters}
	found, _, err := r.client.ImageApi.ReadImages(r.ctx).ReadImagesRequest(asked).Execute()
	check("ReadImages", err)
	if len(*found.Images) != 1 {
		fail("ReadImages", fmt.Errorf("%d OMIs match", len(*found.Images)))
	}
	return (*found.Images)[0]
}

func (r region) register(snapshot string) string {
	root := "/dev/sda1"
	name := "made by osc-sdk-go"
	asked := osc.NewCreateImageRequest()
	asked.SetImageName(name)
	asked.SetRootDeviceName(root)
	bsu := osc.BsuToCreate{SnapshotId: &snapshot}
	asked.SetBlockDeviceMappings([]osc.BlockDeviceMappingImage{{DeviceName: &root, Bsu: &bsu}})
	made, _, err := r.client.ImageApi.CreateImage(r.ctx).CreateImageRequest(*asked).Execute()
	check("CreateImage", err)
	id := made.Image.GetImageId()
	until("the OMI", func() bool {
		image := r.image(&osc.FiltersImage{ImageNames: &[]string{"*osc-sdk-go"}})
		return image.GetImageId() == id && image.GetState() == "available"
	})
	change := osc.NewUpdateImageRequest(id)
	change.SetDescription("seen")
	updated, _, err := r.client.ImageApi.UpdateImage(r.ctx).UpdateImageRequest(*change).Execute()
	check("UpdateImage", err)
	if updated.Image.GetDescription() != "seen" {
		fail("UpdateImage", fmt.Errorf("the description is %q", updated.Image.GetDescription()))
	}
	return id
}

func until(what string, there func() bool) {
	for end := time.Now().Add(patience); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			fail(what, fmt.Errorf("not there after %v", patience))
		}
	}
}

func expect(what string, answer *http.Response, err error, status int) {
	if err == nil || answer == nil || answer.StatusCode != status {
		fail(what, fmt.Errorf("not answered with %d: %v", status, err))
	}
}

func check(action string, err error) {
	if err != nil {
		fail(action, err)
	}
}

func fail(what string, err error) {
	details := ""
	if answered, ok := err.(osc.GenericOpenAPIError); ok {
		details = string(answered.Body())
	}
	fmt.Fprintln(os.Stderr, what+":", err, details)
	os.Exit(1)
}
