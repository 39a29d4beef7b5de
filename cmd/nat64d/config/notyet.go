package config

import "github.com/valyala/fastjson"

// notYet lists the keys whose feature does not exist yet, each with the one
// JSON value that describes what the translator does today ("" when there is
// none). Any other value is refused: nothing is accepted and then ignored.
// Building a feature means deleting its rows here and adding a field to the
// schema.
var notYet = []struct{ path, today string }{
	{"exclusive", `false`},
}

// refuseNotYet reports whether path is a key of the table, having noted a
// problem unless its value is today's.
func (p *parser) refuseNotYet(path string, v *fastjson.Value) bool {
	for _, k := range notYet {
		if k.path != path {
			continue
		}
		switch given := string(v.MarshalTo(nil)); {
		case k.today == "":
			p.problem(path, "comes with a later version", "leave it out")
		case given != k.today:
			p.problem(path, clip(given)+" comes with a later version", "today only "+k.today+" is possible")
		}
		return true
	}
	return false
}
