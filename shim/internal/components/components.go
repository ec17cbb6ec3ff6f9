// Package components knows what this plugin consists of: the builders and data sources, with
// their config and output specs, and what users can call. All of it comes from components.json, which
// the Python side generates from its own tables; nothing here repeats an option or a command.
package components

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/plugin"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

//go:embed components.json
var embedded []byte

// The kinds of components, as components.json names them.
const (
	KindBuilder    = "builder"
	KindDataSource = "datasource"
)

// Set is the content of components.json.
type Set struct {
	Version string `json:"version"`
	// Commands are those that users can call, Help is what tells of them.
	Commands   []string    `json:"commands"`
	Help       string      `json:"help"`
	Components []Component `json:"components"`
}

// Component is one thing that templates can name.
type Component struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Config Block  `json:"config"`
	Output Block  `json:"output"`
}

// pluginName is what Packer makes of this binary's name: the component of that name needs no suffix.
const pluginName = "osc-chroot"

// RegisteredName is the component's name within the plugin; Packer puts the plugin's before it.
func (c Component) RegisteredName() string {
	if c.Name == pluginName {
		return plugin.DEFAULT_NAME
	}
	return strings.TrimPrefix(c.Name, pluginName+"-")
}

// Block describes the inside of an HCL2 block.
type Block struct {
	Attributes map[string]Attribute   `json:"attributes"`
	Blocks     map[string]NestedBlock `json:"blocks"`
}

// Attribute is one argument; its type is in cty's JSON notation.
type Attribute struct {
	Type     json.RawMessage `json:"type"`
	Required bool            `json:"required"`
}

// NestedBlock is a block that stands once ("single") or any number of times ("list").
type NestedBlock struct {
	Nesting string `json:"nesting"`
	Block
}

// Load reads the embedded components file.
var Load = sync.OnceValues(func() (Set, error) { return parse(embedded) })

func parse(content []byte) (Set, error) {
	var set Set
	if err := json.Unmarshal(content, &set); err != nil {
		return Set{}, fmt.Errorf("components.json: %w", err)
	}
	if set.Version == "" {
		return Set{}, fmt.Errorf("components.json: it names no version")
	}
	return set, nil
}

// Spec gives the block as Packer's decoder wants it. Packer's two encodings carry no other kinds of
// specs than those made here.
func (b Block) Spec() (hcldec.ObjectSpec, error) {
	spec := make(hcldec.ObjectSpec, len(b.Attributes)+len(b.Blocks))
	for name, attribute := range b.Attributes {
		attributeType, err := ctyjson.UnmarshalType(attribute.Type)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		if attributeType == cty.NilType || attributeType.HasDynamicTypes() {
			return nil, fmt.Errorf("attribute %q: its type must be known beforehand", name)
		}
		spec[name] = &hcldec.AttrSpec{
			Name: name, Type: attributeType, Required: attribute.Required,
		}
	}
	for name, block := range b.Blocks {
		if _, taken := spec[name]; taken {
			return nil, fmt.Errorf("%q is both an attribute and a block", name)
		}
		nested, err := block.Spec()
		if err != nil {
			return nil, fmt.Errorf("block %q: %w", name, err)
		}
		switch block.Nesting {
		case "single":
			spec[name] = &hcldec.BlockSpec{TypeName: name, Nested: nested}
		case "list":
			spec[name] = &hcldec.BlockListSpec{TypeName: name, Nested: nested}
		default:
			return nil, fmt.Errorf("block %q: unknown nesting %q", name, block.Nesting)
		}
	}
	return spec, nil
}
