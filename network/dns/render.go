package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Render writes the names of networks as text: for each service what its name
// leads to, then what else is known of it.
func Render(networks map[string]map[string]Service) string {
	var b strings.Builder
	for _, network := range slices.Sorted(maps.Keys(networks)) {
		if len(networks[network]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "network %s\n", network)
		for _, id := range slices.Sorted(maps.Keys(networks[network])) {
			networks[network][id].render(&b)
		}
	}
	return b.String()
}

func (s Service) render(b *strings.Builder) {
	made := newService(s)
	fmt.Fprintf(b, "\t%s: %s", s.Name, spelled(made.direct))
	if len(s.VIPs) > 0 {
		b.WriteString(" (virtual)")
	}
	b.WriteByte('\n')
	for _, alias := range s.Aliases {
		fmt.Fprintf(b, "\t\talias %s\n", alias)
	}
	for _, p := range s.Ports {
		fmt.Fprintf(b, "\t\tport %d/%s%s\n", p.Number, p.Protocol, after(" ", p.Name))
	}
	for i, t := range s.Tasks {
		fmt.Fprintf(b, "\t\t%s%s: %s", dotted(made.places[i]), t.ID, spelled(t.Addresses))
		if !t.Serving {
			b.WriteString(" (not serving)")
		}
		b.WriteByte('\n')
	}
}

func spelled(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "nothing"
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}

// after is text with something before it, nothing of none.
func after(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

// Render writes whose questions are answered how.
func (t Task) Render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# task %s in %s\n", t.ID, t.Netns)
	for i, network := range t.Networks {
		fmt.Fprintf(&b, "#   names of network %s", network)
		if i < len(t.Domains) {
			b.WriteString(after(" as ", t.Domains[i]))
		}
		b.WriteByte('\n')
	}
	switch {
	case t.Internal:
		b.WriteString("#   no other names\n")
	case len(t.Servers) == 0:
		b.WriteString("#   other names from the host's servers\n")
	}
	for _, server := range t.Servers {
		fmt.Fprintf(&b, "#   other names from %s\n", server)
	}
	if len(t.Options) > 0 {
		fmt.Fprintf(&b, "#   options %s\n", strings.Join(t.Options, " "))
	}
	return b.String()
}
