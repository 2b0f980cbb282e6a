package controlapi

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Sizes as in Swarm.
const (
	maxSecret = 500 << 10
	maxConfig = 1000 << 10
)

// CreateSecret stores a secret. Its data never comes back.
func (s *Server) CreateSecret(ctx context.Context, req *pb.CreateSecretRequest) (*pb.Secret, error) {
	spec := req.GetSpec()
	if err := checkData(spec.GetName(), spec.GetLabels(), len(spec.GetData()), maxSecret); err != nil {
		return nil, prefixed(err, "create secret %s", spec.GetName())
	}
	secretID := id.New()
	err := s.propose(ctx, &pb.Command{Kind: &pb.Command_CreateSecret{CreateSecret: &pb.CreateSecret{
		Id: secretID, Spec: proto.CloneOf(spec),
	}}})
	if err != nil {
		return nil, err
	}
	return publicSecret(s.cfg.State.View().Secret(secretID)), nil
}

// CreateConfig stores a config.
func (s *Server) CreateConfig(ctx context.Context, req *pb.CreateConfigRequest) (*pb.Config, error) {
	spec := req.GetSpec()
	if err := checkData(spec.GetName(), spec.GetLabels(), len(spec.GetData()), maxConfig); err != nil {
		return nil, prefixed(err, "create config %s", spec.GetName())
	}
	configID := id.New()
	err := s.propose(ctx, &pb.Command{Kind: &pb.Command_CreateConfig{CreateConfig: &pb.CreateConfig{
		Id: configID, Spec: proto.CloneOf(spec),
	}}})
	if err != nil {
		return nil, err
	}
	return s.cfg.State.View().Config(configID), nil
}

func checkData(name string, labels map[string]string, size, most int) error {
	if err := firstOf(checkName(name), checkLabels(labels)); err != nil {
		return err
	}
	switch {
	case size == 0:
		return invalid("data: it is empty")
	case size > most:
		return invalid("data: %d bytes are too many, %d are the most", size, most)
	}
	return nil
}

// ListSecrets returns the secrets that pass the filters.
func (s *Server) ListSecrets(_ context.Context, req *pb.ListRequest) (*pb.ListSecretsResponse, error) {
	passes, err := secretFilters().compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	answer := &pb.ListSecretsResponse{}
	for secret := range s.cfg.State.View().Secrets() {
		if passes(secret) {
			answer.Secrets = append(answer.Secrets, publicSecret(secret))
		}
	}
	return answer, nil
}

// ListConfigs returns the configs that pass the filters, without their data:
// GetConfig has it.
func (s *Server) ListConfigs(_ context.Context, req *pb.ListRequest) (*pb.ListConfigsResponse, error) {
	passes, err := configFilters().compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	answer := &pb.ListConfigsResponse{}
	for config := range s.cfg.State.View().Configs() {
		if passes(config) {
			answer.Configs = append(answer.Configs, listedConfig(config))
		}
	}
	return answer, nil
}

// GetSecret finds a secret by id, name or id prefix; without its data.
func (s *Server) GetSecret(_ context.Context, req *pb.GetRequest) (*pb.Secret, error) {
	secret, err := findSecret(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	return publicSecret(secret), nil
}

// GetConfig finds a config by id, name or id prefix; with its data.
func (s *Server) GetConfig(_ context.Context, req *pb.GetRequest) (*pb.Config, error) {
	return findConfig(s.cfg.State.View(), req.GetRef())
}

// UpdateSecret replaces a secret's labels; nothing else of it can change.
func (s *Server) UpdateSecret(ctx context.Context, req *pb.UpdateLabelsRequest) (*pb.Secret, error) {
	secret, err := findSecret(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	if err := checkLabels(req.GetLabels()); err != nil {
		return nil, prefixed(err, "update secret %s", secret.GetSpec().GetName())
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_UpdateSecretLabels{UpdateSecretLabels: &pb.UpdateSecretLabels{
		Id: secret.Id, IfVersion: req.GetIfVersion(), Labels: req.GetLabels(),
	}}})
	if err != nil {
		return nil, err
	}
	return s.GetSecret(ctx, &pb.GetRequest{Ref: secret.Id})
}

// UpdateConfig replaces a config's labels; nothing else of it can change.
func (s *Server) UpdateConfig(ctx context.Context, req *pb.UpdateLabelsRequest) (*pb.Config, error) {
	config, err := findConfig(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	if err := checkLabels(req.GetLabels()); err != nil {
		return nil, prefixed(err, "update config %s", config.GetSpec().GetName())
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_UpdateConfigLabels{UpdateConfigLabels: &pb.UpdateConfigLabels{
		Id: config.Id, IfVersion: req.GetIfVersion(), Labels: req.GetLabels(),
	}}})
	if err != nil {
		return nil, err
	}
	return s.GetConfig(ctx, &pb.GetRequest{Ref: config.Id})
}

// RemoveSecret removes a secret that no service uses.
func (s *Server) RemoveSecret(ctx context.Context, req *pb.RemoveRequest) (*pb.RemoveResponse, error) {
	secret, err := findSecret(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_RemoveSecret{RemoveSecret: &pb.RemoveSecret{Id: secret.Id}}})
	if err != nil {
		return nil, err
	}
	return &pb.RemoveResponse{Id: secret.Id}, nil
}

// RemoveConfig removes a config that no service uses.
func (s *Server) RemoveConfig(ctx context.Context, req *pb.RemoveRequest) (*pb.RemoveResponse, error) {
	config, err := findConfig(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_RemoveConfig{RemoveConfig: &pb.RemoveConfig{Id: config.Id}}})
	if err != nil {
		return nil, err
	}
	return &pb.RemoveResponse{Id: config.Id}, nil
}
