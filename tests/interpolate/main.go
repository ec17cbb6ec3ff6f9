// Command interpolate renders templates with Packer's own SDK: the reference that the differential
// test compares the plugin's template engine with.
//
// It reads cases as JSON lines and answers each with one JSON line, in order.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"
)

// Case is one template and what it is rendered with.
type Case struct {
	Template string
	// Mode is "validate" (parse only), "once" or "render" (until nothing changes).
	Mode string
	// Data is null, or an array of a kind and its members; see decodeData.
	Data          json.RawMessage
	BuildName     string
	BuildType     string
	TemplatePath  string
	PackerVersion string
	UserVariables map[string]string
	// StartedAt is in nanoseconds since 1970.
	StartedAt int64
}

// Answer is a rendered text (bytes, as Go's strings need not be UTF-8) or an error.
type Answer struct {
	Text  []byte
	Error string
}

// What would render for ever, or to ever more text, is bounded as in the plugin.
const (
	maxPasses = 100
	maxText   = 1 << 20
)

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	decoder := json.NewDecoder(in)
	encoder := json.NewEncoder(out)
	for decoder.More() {
		var c Case
		if err := decoder.Decode(&c); err != nil {
			fmt.Fprintln(os.Stderr, "bad case:", err)
			os.Exit(1)
		}
		text, err := c.run()
		answer := Answer{Text: []byte(text)}
		if err != nil {
			answer = Answer{Error: err.Error()}
		}
		if err := encoder.Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, "cannot answer:", err)
			os.Exit(1)
		}
	}
}

func (c *Case) run() (text string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	data, err := decodeData(c.Data)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bad data:", err)
		os.Exit(1)
	}
	interpolate.InitTime = time.Unix(0, c.StartedAt).UTC()
	ctx := &interpolate.Context{
		Data:                    data,
		BuildName:               c.BuildName,
		BuildType:               c.BuildType,
		TemplatePath:            c.TemplatePath,
		CorePackerVersionString: c.PackerVersion,
		UserVariables:           c.UserVariables,
	}
	switch c.Mode {
	case "validate":
		return "", interpolate.Validate(c.Template, ctx)
	case "once":
		return interpolate.RenderOnce(c.Template, ctx)
	}
	text = c.Template
	for range maxPasses {
		rendered, err := interpolate.RenderOnce(text, ctx)
		if err != nil || rendered == text {
			return rendered, err
		}
		if len(rendered) > maxText {
			return "", errors.New("growing")
		}
		text = rendered
	}
	return "", errors.New("still changing")
}

// decodeData reads template data: ["nil"], ["decode"], ["map", {…}], ["strings", {…}],
// ["struct", [[name, data], …]], ["list", […]] or ["value", x].
func decodeData(raw json.RawMessage) (any, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	var kind string
	if err := json.Unmarshal(parts[0], &kind); err != nil {
		return nil, err
	}
	switch kind {
	case "nil":
		return nil, nil
	case "decode":
		return map[interface{}]interface{}(nil), nil
	case "strings":
		var m map[string]string
		err := json.Unmarshal(parts[1], &m)
		return m, err
	case "map":
		var members map[string]json.RawMessage
		if err := json.Unmarshal(parts[1], &members); err != nil {
			return nil, err
		}
		m := make(map[string]any, len(members))
		for name, member := range members {
			value, err := decodeData(member)
			if err != nil {
				return nil, err
			}
			m[name] = value
		}
		return m, nil
	case "list":
		var members []json.RawMessage
		if err := json.Unmarshal(parts[1], &members); err != nil {
			return nil, err
		}
		list := make([]any, len(members))
		for i, member := range members {
			value, err := decodeData(member)
			if err != nil {
				return nil, err
			}
			list[i] = value
		}
		return list, nil
	case "struct":
		return decodeStruct(parts[1])
	case "value":
		return decodeScalar(parts[1])
	}
	return nil, fmt.Errorf("unknown kind %q", kind)
}

// decodeStruct makes a pointer to a struct, as builders give to their late templates.
func decodeStruct(raw json.RawMessage) (any, error) {
	var members [][2]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	fields := make([]reflect.StructField, len(members))
	values := make([]any, len(members))
	for i, member := range members {
		if err := json.Unmarshal(member[0], &fields[i].Name); err != nil {
			return nil, err
		}
		value, err := decodeData(member[1])
		if err != nil {
			return nil, err
		}
		values[i] = value
		fields[i].Type = reflect.TypeOf(value)
	}
	pointer := reflect.New(reflect.StructOf(fields))
	for i, value := range values {
		pointer.Elem().Field(i).Set(reflect.ValueOf(value))
	}
	return pointer.Interface(), nil
}

// decodeScalar reads a JSON scalar; a number without a fraction is an int.
func decodeScalar(raw json.RawMessage) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	number, ok := value.(json.Number)
	if !ok {
		return value, nil
	}
	if n, err := number.Int64(); err == nil {
		return int(n), nil
	}
	return number.Float64()
}
