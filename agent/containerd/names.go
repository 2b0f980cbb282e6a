package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// nameServer is where the network answers names in each task's namespace
// (network/dns).
const nameServer = "127.0.0.11"

// ownAddresses are those that others reach a task at. The one on the node-local
// bridge is only the task's way out, so it counts where there is no other.
func ownAddresses(networks []*pb.TaskAddress, local netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, n := range networks {
		for _, text := range n.GetAddresses() {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, p.Addr())
			}
		}
	}
	if len(out) == 0 && local.IsValid() {
		out = append(out, local)
	}
	return out
}

// hostsFile has the task's own name and more lines, "ADDRESS NAME [NAME...]".
func hostsFile(hostname string, own []netip.Addr, more []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, addr := range own {
		fmt.Fprintf(&b, "%s\t%s\n", addr, hostname)
	}
	for _, line := range more {
		addr, names, _ := strings.Cut(line, " ")
		fmt.Fprintf(&b, "%s\t%s\n", addr, names)
	}
	return b.String()
}

// hostResolvConf is the text of the host's, empty where it has none.
func hostResolvConf() (string, error) {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the host's search domains: %w", err)
	}
	return string(text), nil
}

// resolvConf leads a task to minid's name server, with the search domains and
// options of the host, or its own. Unless one of these says otherwise, names are
// tried as they are first, as with Docker: a service's is a single label.
func resolvConf(host string, own *pb.DNSConfig) string {
	search, options := parseResolvConf(host)
	if len(own.GetSearch()) > 0 {
		search = own.GetSearch()
	}
	search = slices.DeleteFunc(slices.Clone(search), func(domain string) bool { return domain == "." })
	for _, o := range own.GetOptions() {
		options = withOption(options, o)
	}
	if !slices.ContainsFunc(options, func(o string) bool { return optionName(o) == "ndots" }) {
		options = append(options, "ndots:0")
	}
	out := "nameserver " + nameServer + "\n"
	if len(search) > 0 {
		out += "search " + strings.Join(search, " ") + "\n"
	}
	return out + "options " + strings.Join(options, " ") + "\n"
}

// parseResolvConf reads what counts of search domains, the last line, and the
// options of all lines, as libc does.
func parseResolvConf(text string) (search, options []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "search", "domain":
			search = fields[1:]
		case "options":
			for _, o := range fields[1:] {
				options = withOption(options, o)
			}
		}
	}
	return search, options
}

// withOption adds an option, in place of one of the same name.
func withOption(list []string, option string) []string {
	list = slices.DeleteFunc(list, func(o string) bool { return optionName(o) == optionName(option) })
	return append(list, option)
}

func optionName(option string) string {
	name, _, _ := strings.Cut(option, ":")
	return name
}
