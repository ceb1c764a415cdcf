package route

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// secretFields are the names of fields that hold secrets, wherever they stand in a receiver.
var secretFields = map[string]bool{
	"password": true, "credentials": true, "auth_password": true, "access_token": true, "secret": true, "key": true, "token": true,
}

// Split takes the secrets out of a document: shown is the document with SecretShown in their places, comments and
// order kept, and secrets holds what was there by place. A place whose text is SecretShown already is not in it.
func Split(body []byte) (shown []byte, secrets map[string]string, err error) {
	secrets = make(map[string]string)
	shown, err = walk(body, func(place string, n *yaml.Node) error {
		if n.Value != SecretShown && n.Value != "" {
			secrets[place] = n.Value
		}
		n.SetString(SecretShown)
		return nil
	})
	return shown, secrets, err
}

// Join puts secrets back in their places. A place without one is an error that names it.
func Join(shown []byte, secret func(place string) (string, error)) ([]byte, error) {
	return walk(shown, func(place string, n *yaml.Node) error {
		if n.Value != SecretShown {
			return nil
		}
		v, err := secret(place)
		if err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
		n.SetString(v)
		return nil
	})
}

// Places lists where a document has secrets that are not given but taken over from the document before.
func Places(body []byte) (places []string, err error) {
	_, err = walk(body, func(place string, n *yaml.Node) error {
		if n.Value == SecretShown {
			places = append(places, place)
		}
		return nil
	})
	return places, err
}

// walk visits the secret fields of all receivers and encodes the document anew.
func walk(body []byte, visit func(place string, n *yaml.Node) error) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) > 0 {
		if list := field(doc.Content[0], "receivers"); list != nil {
			for i, r := range list.Content {
				name := fmt.Sprintf("#%d", i)
				if n := field(r, "name"); n != nil {
					name = n.Value
				}
				if err := fields(r, "receiver "+name, visit); err != nil {
					return nil, err
				}
			}
		}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("write routes: %w", err)
	}
	return out.Bytes(), nil
}

func field(n *yaml.Node, name string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func fields(n *yaml.Node, place string, visit func(string, *yaml.Node) error) error {
	switch n.Kind {
	case yaml.AliasNode:
		return fmt.Errorf("line %d: aliases are not taken in receivers; write the value out", n.Line)
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if err := fields(item, fmt.Sprintf("%s[%d]", place, i), visit); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i].Value, n.Content[i+1]
			at := place + "." + name
			if secretFields[name] && value.Kind == yaml.ScalarNode {
				if err := visit(at, value); err != nil {
					return err
				}
				continue
			}
			if err := fields(value, at, visit); err != nil {
				return err
			}
		}
	}
	return nil
}
