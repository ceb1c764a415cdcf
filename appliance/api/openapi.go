package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/problem"
)

// object is a JSON object of the description.
type object = map[string]any

// describe makes the OpenAPI 3.1 description of the routes.
func describe(routes []Route) ([]byte, error) {
	schemas := newSchemas()
	paths := object{}
	for i := range routes {
		r := &routes[i]
		item, ok := paths[r.Path].(object)
		if !ok {
			item = object{}
			paths[r.Path] = item
		}
		item[strings.ToLower(r.Method)] = schemas.operation(r)
	}
	schemas.of(reflect.TypeFor[problem.Problem]())
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Triward", "version": "1",
			"description": "The HTTP API of a Triward node. Errors are problem documents (RFC 9457).",
		},
		"paths": paths,
		"components": object{
			"schemas": schemas.named,
			"securitySchemes": object{
				"session": object{"type": "apiKey", "in": "cookie", "name": auth.CookieSecure},
				"token":   object{"type": "http", "scheme": "bearer"},
				"named":   object{"type": "http", "scheme": "basic", "description": "any name, with a token as the password; not for browsers"},
			},
		},
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode the API description: %w", err)
	}
	return data, nil
}

var pathParam = regexp.MustCompile(`\{([a-z_]+)\}`)

func (s *schemas) operation(r *Route) object {
	params := []object{}
	for _, m := range pathParam.FindAllStringSubmatch(r.Path, -1) {
		params = append(params, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	all := r.Params
	if r.Fresh {
		all = with(all, freshParams...)
	}
	for i := range all {
		params = append(params, all[i].describe())
	}
	status := r.Status
	if status == 0 {
		status = http.StatusOK
	}
	success := object{"description": http.StatusText(status)}
	switch {
	case r.Answer != nil:
		success["content"] = object{"application/json": object{"schema": s.of(reflect.TypeOf(r.Answer))}}
	case r.Type != "":
		success["content"] = object{r.Type: object{}}
	}
	if r.Permission != auth.Public {
		success["headers"] = object{IndexHeader: object{
			"description": "index of the log that the node had applied",
			"schema":      object{"type": "string"},
		}}
	}
	op := object{
		"operationId":  operationID(r),
		"summary":      r.Summary,
		"parameters":   params,
		"x-permission": r.Permission.String(),
		"responses": object{
			strconv.Itoa(status): success,
			"default": object{"description": "a problem document", "content": object{
				"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}},
			}},
		},
	}
	if r.Permission == auth.Public {
		op["security"] = []object{}
	} else {
		op["security"] = []object{{"session": []string{}}, {"token": []string{}}, {"named": []string{}}}
	}
	if r.Body != nil {
		op["requestBody"] = object{
			"required": true,
			"content":  object{"application/json": object{"schema": s.of(reflect.TypeOf(r.Body))}},
		}
	}
	if r.Takes != "" {
		op["requestBody"] = object{
			"required": true, "content": object{r.Takes: object{"schema": object{"type": "string", "format": "binary"}}},
		}
	}
	return op
}

// operationID names the operation for generated clients: method and path in camel case.
func operationID(r *Route) string {
	if r.Operation != "" {
		return r.Operation
	}
	id := strings.ToLower(r.Method)
	for _, part := range strings.FieldsFunc(r.Path, func(c rune) bool { return !('a' <= c && c <= 'z' || '0' <= c && c <= '9') }) {
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	return id
}

func (p *Param) describe() object {
	schema := object{"type": "string"}
	switch p.Kind {
	case paramInt:
		schema = object{"type": "integer", "format": "int64"}
		if p.Min != 0 || p.Max != 0 {
			schema["minimum"], schema["maximum"] = p.Min, p.Max
		}
	case paramChoice:
		schema["enum"] = p.Choices
	case paramText:
		schema["maxLength"] = 256
		if p.MaxLen > 0 {
			schema["maxLength"] = p.MaxLen
		}
	case paramTime:
		schema["description"] = "ns or ms since 1970, RFC 3339, or now-1h"
	case paramDuration:
		schema["description"] = "30s, 5m, 1h, 7d, or ms"
	}
	if p.Default != "" {
		schema["default"] = p.Default
		if n, err := strconv.ParseInt(p.Default, 10, 64); err == nil && p.Kind == paramInt {
			schema["default"] = n
		}
	}
	return object{"name": p.Name, "in": "query", "required": p.Required, "description": p.Doc, "schema": schema}
}

// schemas turns Go types into JSON schemas; structs are named.
type schemas struct{ named object }

func newSchemas() *schemas {
	return &schemas{named: object{"HostRow": hostRowSchema()}}
}

func (s *schemas) of(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	case reflect.TypeFor[[]byte]():
		return object{"type": "string", "contentEncoding": "base64"}
	case reflect.TypeFor[fleet.Number]():
		return object{"type": []string{"number", "null"}}
	case reflect.TypeFor[hostsAnswer]():
		return object{"type": "object", "required": []string{"at", "hosts"}, "properties": object{
			"at":    object{"type": "integer", "format": "int64"},
			"hosts": object{"type": "array", "items": object{"$ref": "#/components/schemas/HostRow"}},
		}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64, reflect.Float32:
		return object{"type": "number"}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Slice:
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
		if _, ok := s.named[name]; !ok {
			s.named[name] = object{} // in case it contains itself
			s.named[name] = s.structure(t)
		}
		return object{"$ref": "#/components/schemas/" + name}
	}
	panic(fmt.Sprintf("api: no schema for %s", t)) // a type of the table of routes: found by any start
}

func (s *schemas) structure(t reflect.Type) object {
	props, required := object{}, []string{}
	s.fields(t, props, &required)
	out := object{"type": "object", "properties": props}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func (s *schemas) fields(t reflect.Type, props object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			s.fields(f.Type, props, required)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || name == "" {
			continue
		}
		props[name] = s.of(f.Type)
		if !strings.Contains(options, "omitempty") {
			*required = append(*required, name)
		}
	}
}

// hostRowSchema is the schema of what fleet.Host writes by hand; a test holds them together.
func hostRowSchema() object {
	number := object{"type": []string{"number", "null"}}
	text := object{"type": "string"}
	line := object{"type": "array", "items": number, "minItems": fleet.SparkPoints, "maxItems": fleet.SparkPoints}
	props := object{
		"id": text, "host": text, "state": object{"type": "string", "enum": []string{"up", "late", "down", "new"}},
		"last_seen": object{"type": []string{"integer", "null"}}, "os": text, "version": text,
		"tags": object{"type": "object", "additionalProperties": text}, "disk_mount": object{"type": []string{"string", "null"}},
		"spark_step_ms": object{"type": "integer"}, "spark_end": object{"type": "integer"},
		"spark": object{
			"type": "object", "required": []string{"cpu", "mem", "net", "load"},
			"properties": object{"cpu": line, "mem": line, "net": line, "load": line},
		},
	}
	for _, name := range []string{"cpu", "mem", "disk", "net_rx", "net_tx", "load1", "cores", "log_errors"} {
		props[name] = number
	}
	required := []string{
		"id", "host", "state", "last_seen", "os", "version", "tags", "cpu", "mem", "disk", "disk_mount",
		"net_rx", "net_tx", "load1", "cores", "log_errors", "spark", "spark_step_ms", "spark_end",
	}
	return object{"type": "object", "properties": props, "required": required}
}
