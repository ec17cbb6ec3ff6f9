package builder

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
	"google.golang.org/grpc"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/components"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

func TestPrepareOverBothEncodings(t *testing.T) {
	for _, useProto := range []bool{false, true} {
		fake := newFakePython(t)
		var seen *contract.PrepareRequest
		fake.prepare = func(request *contract.PrepareRequest) *contract.PrepareResponse {
			seen = request
			return &contract.PrepareResponse{GeneratedVars: []string{"Device"}, Warnings: []string{"careful"}}
		}
		builder := overPacker(t, useProto, New(testComponent(t), fake, nil))
		generated, warnings, err := builder.Prepare(
			map[string]any{"packer_build_name": "x", "packer_debug": false, "packer_user_variables": map[string]string{"a": "b"}},
			cty.ObjectVal(map[string]cty.Value{
				"omi_name": cty.StringVal(""),
				"region":   cty.NullVal(cty.String),
				"mounts":   cty.ListVal([]cty.Value{cty.ListVal([]cty.Value{cty.StringVal("proc")})}),
				"size":     cty.NumberIntVal(12),
			}),
		)
		if err != nil || !slices.Equal(generated, []string{"Device"}) || !slices.Equal(warnings, []string{"careful"}) {
			t.Fatalf("%v %v %v", generated, warnings, err)
		}
		want := []string{
			`{"packer_build_name":"x","packer_debug":false,"packer_user_variables":{"a":"b"}}`,
			`{"mounts":[["proc"]],"omi_name":"","region":null,"size":12}`,
		}
		for i, raw := range seen.RawConfigs {
			if string(raw) != want[i] {
				t.Errorf("got %s, want %s", raw, want[i])
			}
		}
		if seen.Component.Kind != "builder" || seen.Component.Name != "osc-chroot" || seen.BuilderId == "" {
			t.Errorf("%v", seen)
		}
	}
}

func TestPrepareGivesAllProblems(t *testing.T) {
	fake := newFakePython(t)
	fake.prepare = func(*contract.PrepareRequest) *contract.PrepareResponse {
		return &contract.PrepareResponse{Errors: []string{"omi_name: missing", "tags: wrong"}}
	}
	_, _, err := overPacker(t, false, New(testComponent(t), fake, nil)).Prepare(map[string]any{})
	if err == nil || err.Error() != "2 error(s) occurred:\n\n* omi_name: missing\n* tags: wrong" {
		t.Errorf("%v", err)
	}
}

func TestConfigSpecOverBothEncodings(t *testing.T) {
	set := `{"attributes": {"name": {"type": "string"}, "mounts": {"type": ["list", ["list", "string"]]}},
		"blocks": {"filter": {"nesting": "single", "attributes": {"owner": {"type": "string"}}},
			"device": {"nesting": "list", "attributes": {"size": {"type": "number"}}}}}`
	var block components.Block
	if err := json.Unmarshal([]byte(set), &block); err != nil {
		t.Fatal(err)
	}
	for _, useProto := range []bool{false, true} {
		builder := New(components.Component{Name: "x", Config: block}, unreachable{}, nil)
		spec := overPacker(t, useProto, builder).ConfigSpec()
		if names := slices.Sorted(maps.Keys(spec)); !slices.Equal(names, []string{"device", "filter", "mounts", "name"}) {
			t.Errorf("%v", names)
		}
		got := hcldec.ImpliedType(spec)
		want := cty.Object(map[string]cty.Type{
			"name":   cty.String,
			"mounts": cty.List(cty.List(cty.String)),
			"filter": cty.Object(map[string]cty.Type{"owner": cty.String}),
			"device": cty.List(cty.Object(map[string]cty.Type{"size": cty.Number})),
		})
		if !got.Equals(want) {
			t.Errorf("protobuf %v: %#v", useProto, got)
		}
	}
}

// unreachable is a service that must not be used.
type unreachable struct{}

func (unreachable) Connect(context.Context) (grpc.ClientConnInterface, error) {
	panic("the service was asked")
}
func (unreachable) Ended() <-chan struct{} { panic("the service was asked") }
func (unreachable) Exit() (string, string) { panic("the service was asked") }

func TestEncodeConfig(t *testing.T) {
	for _, c := range []struct {
		raw  any
		want string
	}{
		{map[any]any{"a": []byte("bytes"), "b": []any{int64(-1), uint64(math.MaxUint64), 1.5, nil, true}},
			`{"a":"bytes","b":[-1,18446744073709551615,1.5,null,true]}`},
		{map[string]any{"m": map[any]any{"k": []byte("v")}, "e": ""}, `{"e":"","m":{"k":"v"}}`},
		{map[string]string{"é": "<&>"}, `{"é":"\u003c\u0026\u003e"}`},
		{cty.ObjectVal(map[string]cty.Value{
			"s": cty.UnknownVal(cty.String), "n": cty.UnknownVal(cty.Number),
			"b": cty.UnknownVal(cty.Bool), "l": cty.UnknownVal(cty.List(cty.String)),
			"o": cty.UnknownVal(cty.Map(cty.String)), "d": cty.DynamicVal,
		}), `{"b":false,"d":"\u003cunknown\u003e","l":[],"n":0,"o":{},"s":"\u003cunknown\u003e"}`},
		{cty.ObjectVal(map[string]cty.Value{
			"half": cty.MustParseNumberVal("0.1"), "big": cty.MustParseNumberVal("123456789012345678901"),
			"block": cty.NullVal(cty.Object(map[string]cty.Type{"a": cty.String})),
			"set":   cty.SetVal([]cty.Value{cty.StringVal("x")}),
			"mark":  cty.StringVal("secret").Mark("sensitive"),
		}), `{"big":123456789012345678901,"block":null,"half":0.1,"mark":"secret","set":["x"]}`},
	} {
		got, err := EncodeConfig(c.raw)
		if err != nil || string(got) != c.want {
			t.Errorf("%v: got %s (%v), want %s", c.raw, got, err, c.want)
		}
	}
}

func TestEncodeConfigRefuses(t *testing.T) {
	for want, raw := range map[string]any{
		"no object":       []any{"a"},
		"a: NaN":          map[string]any{"a": math.NaN()},
		"b: a Go func()":  map[string]any{"b": func() {}},
		"no object but <": nil,
	} {
		if _, err := EncodeConfig(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", want, err)
		}
	}
}
