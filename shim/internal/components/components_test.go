package components

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
)

const sample = `{"version": "1.2.3", "components": [{"kind": "builder", "name": "osc-chroot", "config": {
	"attributes": {
		"omi_name": {"type": "string", "required": true},
		"mounts": {"type": ["list", ["list", "string"]]},
		"tags": {"type": ["map", "string"]}},
	"blocks": {
		"source_omi_filter": {"nesting": "single", "attributes": {"most_recent": {"type": "bool"}}},
		"device": {"nesting": "list", "attributes": {"size": {"type": "number"}},
			"blocks": {"tag": {"nesting": "list", "attributes": {"key": {"type": "string"}}}}}}
	}}]}`

func TestSpec(t *testing.T) {
	set, err := parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := set.Components[0].Config.Spec()
	if err != nil {
		t.Fatal(err)
	}
	name := spec["omi_name"].(*hcldec.AttrSpec)
	if name.Type != cty.String || !name.Required {
		t.Errorf("omi_name: %#v", name)
	}
	mounts := spec["mounts"].(*hcldec.AttrSpec)
	if !mounts.Type.Equals(cty.List(cty.List(cty.String))) || mounts.Required {
		t.Errorf("mounts: %#v", mounts)
	}
	filter := spec["source_omi_filter"].(*hcldec.BlockSpec)
	if filter.TypeName != "source_omi_filter" || len(filter.Nested.(hcldec.ObjectSpec)) != 1 {
		t.Errorf("source_omi_filter: %#v", filter)
	}
	device := spec["device"].(*hcldec.BlockListSpec).Nested.(hcldec.ObjectSpec)
	if _, ok := device["tag"].(*hcldec.BlockListSpec); !ok {
		t.Errorf("device: %#v", device)
	}
}

func TestSpecRefusesWhatPackerCannotCarry(t *testing.T) {
	for content, want := range map[string]string{
		`{"attributes": {"a": {"type": "dynamic"}}}`:                                      "known beforehand",
		`{"attributes": {"a": {"type": "strung"}}}`:                                       `attribute "a"`,
		`{"blocks": {"b": {"nesting": "map"}}}`:                                           "unknown nesting",
		`{"attributes": {"b": {"type": "string"}}, "blocks": {"b": {"nesting": "list"}}}`: "both",
	} {
		set, err := parse([]byte(`{"version": "1.0.0", "components": [{"config": ` + content + `}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Components[0].Config.Spec(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
}

func TestEmbeddedFile(t *testing.T) {
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, component := range set.Components {
		if _, err := component.Config.Spec(); err != nil {
			t.Errorf("%s %s: config: %v", component.Kind, component.Name, err)
		}
		if _, err := component.Output.Spec(); err != nil {
			t.Errorf("%s %s: output: %v", component.Kind, component.Name, err)
		}
		found = found || component.Kind == KindBuilder && component.Name == "osc-chroot"
	}
	if !found {
		t.Error("the builder osc-chroot is missing")
	}
}
