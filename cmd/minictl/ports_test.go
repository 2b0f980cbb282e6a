package main

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	pb "github.com/minid/minid/proto/minid/v1"
)

func serviceOf(t *testing.T, text string) *pb.Service {
	t.Helper()
	s := &pb.Service{}
	if err := prototext.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPortsText(t *testing.T) {
	for ports, want := range map[string]string{
		"": "",
		"ports { target: 80 published: 8080 protocol: PROTOCOL_TCP }":                      "*:8080->80/tcp",
		"ports { target: 80 protocol: PROTOCOL_SCTP }":                                     "80/sctp",
		"ports { target: 80 published: 8080 protocol: PROTOCOL_TCP host_ip: '127.0.0.1' }": "127.0.0.1:8080->80/tcp",
		`ports { target: 81 published: 8001 protocol: PROTOCOL_TCP } ports { target: 82 published: 8002 protocol: PROTOCOL_TCP }
		 ports { target: 80 published: 8000 protocol: PROTOCOL_TCP } ports { target: 84 published: 8003 protocol: PROTOCOL_TCP }`: "*:8000-8002->80-82/tcp, *:8003->84/tcp",
		`ports { target: 80 published: 80 protocol: PROTOCOL_TCP } ports { target: 81 published: 81 protocol: PROTOCOL_UDP }
		 ports { target: 81 published: 81 protocol: PROTOCOL_TCP host_ip: '10.0.0.1' }`: "*:80->80/tcp, 10.0.0.1:81->81/tcp, *:81->81/udp",
		`ports { target: 80 protocol: PROTOCOL_TCP } ports { target: 81 protocol: PROTOCOL_TCP }`:                             "80-81/tcp",
		`ports { target: 80 published: 80 protocol: PROTOCOL_TCP } ports { target: 80 published: 81 protocol: PROTOCOL_TCP }`: "*:80->80/tcp, *:81->80/tcp",
	} {
		if got := portsText(serviceOf(t, "spec { task {"+ports+"} }").Spec.Task.Ports); got != want {
			t.Errorf("%s: %q, want %q", ports, got, want)
		}
	}
}

// The ports that the managers chose stand beside those that were asked for.
func TestServicePorts(t *testing.T) {
	for _, test := range []struct{ spec, endpoint, want string }{
		{`ports { target: 80 mode: MODE_INGRESS }`, ``, "80/tcp"},
		{`ports { target: 80 mode: MODE_INGRESS }`, `ports { target: 80 published: 30001 mode: MODE_INGRESS }`, "*:30001->80/tcp"},
		{`ports { target: 80 mode: MODE_INGRESS } ports { target: 80 published: 8080 mode: MODE_INGRESS }`,
			`ports { target: 80 published: 30001 mode: MODE_INGRESS } ports { target: 80 published: 8080 mode: MODE_INGRESS }`, "*:30001->80/tcp *:8080->80/tcp"},
		{`ports { target: 80 mode: MODE_INGRESS } ports { target: 80 published: 8080 mode: MODE_INGRESS }`,
			`ports { target: 80 published: 8080 mode: MODE_INGRESS } ports { target: 80 published: 30001 mode: MODE_INGRESS }`, "*:30001->80/tcp *:8080->80/tcp"},
		{`ports { target: 81 mode: MODE_INGRESS }`, `ports { target: 80 published: 30001 mode: MODE_INGRESS }`, "81/tcp"},
		{`ports { target: 80 mode: MODE_HOST }`, `ports { target: 80 published: 30001 mode: MODE_INGRESS }`, "80/tcp"},
		{`ports { target: 80 published: 8080 mode: MODE_INGRESS }`, `ports { target: 80 published: 8079 mode: MODE_INGRESS }`, "*:8080->80/tcp"},
	} {
		s := serviceOf(t, "spec { task {"+test.spec+"} } endpoint {"+test.endpoint+"}")
		for _, p := range append(s.Spec.Task.Ports, s.Endpoint.Ports...) {
			p.Protocol = pb.PortConfig_PROTOCOL_TCP
		}
		var got []string
		for _, p := range servicePorts(s) {
			got = append(got, portSpan{first: p}.String())
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s with %s: %q, want %q", test.spec, test.endpoint, text, test.want)
		}
	}
}
