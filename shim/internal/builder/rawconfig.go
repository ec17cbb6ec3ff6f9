package builder

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"

	"github.com/zclconf/go-cty/cty"
)

// unknownText stands for a string that is not known yet, as Packer itself has it at validate.
const unknownText = "<unknown>"

// EncodeConfig makes a JSON object of one of the values that Packer gives to Prepare (a data source's
// Configure): cty values for the block of an HCL2 template, else maps as msgpack decodes them.
func EncodeConfig(raw any) ([]byte, error) {
	var plain any
	var err error
	if value, ok := raw.(cty.Value); ok {
		plain, err = plainFromCty(value)
	} else {
		plain, err = plainFromAny(reflect.ValueOf(raw))
	}
	if err != nil {
		return nil, err
	}
	object, ok := plain.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("Packer gave a configuration that is no object but %T", raw)
	}
	return json.Marshal(object)
}

// plainFromCty keeps what is not set as null, and gives what is not known as core does.
func plainFromCty(value cty.Value) (any, error) {
	value, _ = value.Unmark()
	valueType := value.Type()
	if !value.IsKnown() {
		switch {
		case valueType == cty.Number:
			return 0, nil
		case valueType == cty.Bool:
			return false, nil
		case valueType.IsListType(), valueType.IsSetType(), valueType.IsTupleType():
			return []any{}, nil
		case valueType.IsMapType(), valueType.IsObjectType():
			return map[string]any{}, nil
		}
		return unknownText, nil
	}
	if value.IsNull() {
		return nil, nil
	}
	switch {
	case valueType == cty.String:
		return value.AsString(), nil
	case valueType == cty.Bool:
		return value.True(), nil
	case valueType == cty.Number:
		number := value.AsBigFloat()
		if number.IsInf() {
			return nil, fmt.Errorf("an infinite number cannot be an option's value")
		}
		return json.Number(number.Text('f', -1)), nil
	case valueType.IsListType(), valueType.IsSetType(), valueType.IsTupleType():
		list := make([]any, 0, value.LengthInt())
		for elements := value.ElementIterator(); elements.Next(); {
			_, element := elements.Element()
			plain, err := plainFromCty(element)
			if err != nil {
				return nil, err
			}
			list = append(list, plain)
		}
		return list, nil
	case valueType.IsMapType(), valueType.IsObjectType():
		object := make(map[string]any, value.LengthInt())
		for elements := value.ElementIterator(); elements.Next(); {
			key, element := elements.Element()
			key, _ = key.Unmark()
			plain, err := plainFromCty(element)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key.AsString(), err)
			}
			object[key.AsString()] = plain
		}
		return object, nil
	}
	return nil, fmt.Errorf("a value of type %s cannot be an option's value", valueType.FriendlyName())
}

// plainFromAny undoes what msgpack makes of a JSON template: strings may come as bytes, and the keys of
// maps as any type.
func plainFromAny(value reflect.Value) (any, error) {
	switch value.Kind() {
	case reflect.Invalid:
		return nil, nil
	case reflect.Interface, reflect.Pointer:
		if value.IsNil() {
			return nil, nil
		}
		return plainFromAny(value.Elem())
	case reflect.String:
		return value.String(), nil
	case reflect.Bool:
		return value.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return value.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return value.Uint(), nil
	case reflect.Float32, reflect.Float64:
		number := value.Float()
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return nil, fmt.Errorf("%v cannot be an option's value", number)
		}
		return number, nil
	case reflect.Slice, reflect.Array:
		if value.Type().Elem().Kind() == reflect.Uint8 && value.Kind() == reflect.Slice {
			return string(value.Bytes()), nil
		}
		list := make([]any, value.Len())
		for i := range list {
			plain, err := plainFromAny(value.Index(i))
			if err != nil {
				return nil, err
			}
			list[i] = plain
		}
		return list, nil
	case reflect.Map:
		object := make(map[string]any, value.Len())
		for entries := value.MapRange(); entries.Next(); {
			key := fmt.Sprint(entries.Key().Interface())
			plain, err := plainFromAny(entries.Value())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			object[key] = plain
		}
		return object, nil
	}
	return nil, fmt.Errorf("a Go %s cannot be an option's value", value.Type())
}
