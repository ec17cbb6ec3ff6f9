package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"time"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"google.golang.org/grpc"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

const (
	stateDeadline   = time.Minute
	destroyDeadline = 30 * time.Minute
)

type artifact struct {
	client  contract.ArtifactClient
	service Service
	info    *contract.ArtifactInfo
}

var _ packersdk.Artifact = (*artifact)(nil)

func newArtifact(conn grpc.ClientConnInterface, service Service, info *contract.ArtifactInfo) *artifact {
	return &artifact{client: contract.NewArtifactClient(conn), service: service, info: info}
}

func (a *artifact) BuilderId() string { return a.info.BuilderTypeId }
func (a *artifact) Files() []string   { return nil } // it is in the cloud
func (a *artifact) Id() string        { return a.info.Id }
func (a *artifact) String() string    { return a.info.Description }

// State gives nil for what there is not; Packer knows no error here.
func (a *artifact) State(name string) any {
	ctx, cancel := context.WithTimeout(context.Background(), stateDeadline)
	defer cancel()
	request := &contract.StateRequest{ArtifactId: a.info.ArtifactId, Name: name}
	response, err := a.client.State(ctx, request)
	if err != nil {
		log.Printf("[WARN] artifact: state %q: %s", name, explain(err, a.service))
		return nil
	}
	value, err := decodeState(response.ValueJson)
	if err != nil {
		log.Printf("[WARN] artifact: state %q: %s", name, err)
		return nil
	}
	return value
}

func (a *artifact) Destroy() error {
	ctx, cancel := context.WithTimeout(context.Background(), destroyDeadline)
	defer cancel()
	_, err := a.client.Destroy(ctx, &contract.DestroyRequest{ArtifactId: a.info.ArtifactId})
	if err != nil {
		err = explain(err, a.service).withLastWords()
		// The SDK's RPC (0.6.10) carries that this failed, but has its own error in place of this text.
		log.Printf("[ERROR] artifact: %s", err)
		return err
	}
	return nil
}

// decodeState gives only types that msgpack carries as they are: integers stay integers.
func decodeState(content []byte) (any, error) {
	if len(content) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	return withoutNumbers(value)
}

func withoutNumbers(value any) (any, error) {
	switch value := value.(type) {
	case json.Number:
		if integer, err := value.Int64(); err == nil {
			return integer, nil
		}
		number, err := value.Float64()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", value, err)
		}
		return number, nil
	case []any:
		for i, element := range value {
			plain, err := withoutNumbers(element)
			if err != nil {
				return nil, err
			}
			value[i] = plain
		}
	case map[string]any:
		for key, element := range value {
			plain, err := withoutNumbers(element)
			if err != nil {
				return nil, err
			}
			value[key] = plain
		}
	}
	return value, nil
}
