package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/appliance/agentconfig"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/problem"
)

// maxConfigBody is a text with every byte escaped, and what is said of it.
const maxConfigBody = 6*config.MaxGroup + 8<<10

type groupsAnswer struct {
	Groups []groupView `json:"groups"`
}

// groupView is a group of agents: those that have a configuration of their own, and those that agents are in.
type groupView struct {
	agentconfig.Version
	// Own is false when the group has no configuration of its own and its agents have that of the default group.
	Own    bool                `json:"own"`
	Agents int                 `json:"agents"` // that are not revoked
	Drift  map[fleet.Drift]int `json:"drift"`  // how many of them stand how
}

type configCheckBody struct {
	Body string `json:"body"`
	// Group, when given, has the text compared with the newest of that group.
	Group string `json:"group,omitempty"`
}

type configCheckAnswer struct {
	OK       bool                   `json:"ok"`
	Problems []agentconfig.Problem  `json:"problems"`
	Diff     []agentconfig.DiffLine `json:"diff"`
}

type configPutBody struct {
	Body string `json:"body"`
	// Version is the one that was read and is replaced; 0 when the group has none yet.
	Version *uint64 `json:"version"`
	Note    string  `json:"note,omitempty"`
}

type configRollbackBody struct {
	To      uint64  `json:"to"`
	Version *uint64 `json:"version"`
	Note    string  `json:"note,omitempty"`
}

type configHistoryAnswer struct {
	Versions []agentconfig.Version `json:"versions"`
}

type configDiffAnswer struct {
	From uint64                 `json:"from"`
	To   uint64                 `json:"to"`
	Diff []agentconfig.DiffLine `json:"diff"`
}

type agentGroupBody struct {
	Group string `json:"group"` // "" is the default group
}

// agentConfigRoutes are what an operator does with the configuration of agents by group.
func agentConfigRoutes() []Route {
	const group = "/v1/agent/configs/groups/{group}"
	version := func(name, doc string) Param {
		return Param{Name: name, Kind: paramInt, Min: 0, Max: 1 << 53, Default: "0", Doc: doc}
	}
	return []Route{
		{
			Method: "GET", Path: "/v1/agent/configs", Permission: auth.Read, Fresh: true,
			Summary: "Groups of agents, the newest version of their configuration and how many agents have it",
			Answer:  groupsAnswer{}, serve: (*API).agentGroups,
		},
		{
			Method: "POST", Path: "/v1/agent/configs/check", Permission: auth.Read,
			Summary: "Say what is wrong with a configuration and how it differs from the newest of a group",
			Body:    configCheckBody{}, MaxBody: maxConfigBody, Answer: configCheckAnswer{}, serve: (*API).checkAgentConfig,
		},
		{
			Method: "GET", Path: group, Permission: auth.Read, Summary: "The newest configuration of a group; version 0 when it has none", Fresh: true,
			Params: []Param{version("version", "another version that is kept; 0 for the newest")},
			Answer: agentconfig.Version{}, serve: (*API).agentConfig,
		},
		{
			Method: "PUT", Path: group, Permission: auth.Administer, Summary: "Make a text the newest configuration of a group",
			Body: configPutBody{}, MaxBody: maxConfigBody, Answer: agentconfig.Version{}, serve: (*API).putAgentConfig,
		},
		{
			Method: "DELETE", Path: group, Permission: auth.Administer,
			Summary: "Remove the configuration of a group with its history: its agents have that of the default group then",
			Params:  []Param{version("version", "the one that was read")},
			Status:  http.StatusNoContent, serve: (*API).removeAgentConfig,
		},
		{
			Method: "GET", Path: group + "/history", Permission: auth.Read, Fresh: true,
			Summary: "The versions of a group's configuration that are kept, the newest first", Answer: configHistoryAnswer{},
			serve: (*API).agentConfigHistory,
		},
		{
			Method: "GET", Path: group + "/diff", Permission: auth.Read, Fresh: true, Summary: "How two versions of a group's configuration differ",
			Params: []Param{version("from", "the earlier one; 0 for the one before `to`"), version("to", "the later one; 0 for the newest")},
			Answer: configDiffAnswer{}, serve: (*API).diffAgentConfig,
		},
		{
			Method: "POST", Path: group + "/rollback", Permission: auth.Administer,
			Summary: "Make the text of an earlier version the newest one", Body: configRollbackBody{}, Answer: agentconfig.Version{},
			serve: (*API).rollbackAgentConfig,
		},
		{
			Method: "PUT", Path: "/v1/agents/{id}/group", Permission: auth.Administer, Summary: "Put an agent into a group",
			Body: agentGroupBody{}, Status: http.StatusNoContent, serve: (*API).setAgentGroup,
		},
	}
}

// configBy is who makes the request.
func (q *request) configBy() agentconfig.By {
	return agentconfig.By{Actor: q.p.Actor(), Address: q.p.Address}
}

func (a *API) agentGroups(q *request) error {
	out := groupsAnswer{Groups: []groupView{}}
	at := make(map[string]int)
	for _, v := range a.cfg.AgentConfigs.Groups() {
		at[v.Group] = len(out.Groups)
		out.Groups = append(out.Groups, groupView{Version: v, Own: v.Version > 0, Drift: map[fleet.Drift]int{}})
	}
	agents := a.cfg.Fleet.Agents()
	for i := range agents {
		if agents[i].Revoked {
			continue
		}
		name := agentconfig.GroupOf(agents[i].Group)
		n, ok := at[name]
		if !ok {
			n = len(out.Groups)
			at[name] = n
			v := *a.cfg.AgentConfigs.For(name)
			v.Body = ""
			v.Group = name
			out.Groups = append(out.Groups, groupView{Version: v, Drift: map[fleet.Drift]int{}})
		}
		out.Groups[n].Agents++
		out.Groups[n].Drift[agents[i].Config.Drift]++
	}
	return q.answer(http.StatusOK, out)
}

func (a *API) checkAgentConfig(q *request) error {
	var b configCheckBody
	if err := q.body(&b); err != nil {
		return err
	}
	out := configCheckAnswer{Problems: []agentconfig.Problem{}, Diff: []agentconfig.DiffLine{}}
	_, err := agentconfig.Check([]byte(b.Body))
	if bad, ok := errors.AsType[*agentconfig.Error](err); ok {
		out.Problems = bad.Problems
	} else if err != nil {
		return err
	}
	out.OK = len(out.Problems) == 0
	if b.Group != "" && len(b.Body) <= config.MaxGroup {
		now := ""
		if v, _, ok := a.cfg.AgentConfigs.Own(b.Group); ok {
			now = v.Body
		}
		out.Diff = append(out.Diff, agentconfig.Diff(now, b.Body)...)
	}
	return q.answer(http.StatusOK, out)
}

func (a *API) agentConfig(q *request) error {
	group, version := q.r.PathValue("group"), uint64(q.v.int("version"))
	if _, _, own := a.cfg.AgentConfigs.Own(group); !own && version == 0 {
		return q.answer(http.StatusOK, agentconfig.Version{Group: group})
	}
	v, err := a.cfg.AgentConfigs.Version(group, version)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, v)
}

// errNoBase asks for the version that a change replaces.
func errNoBase() error {
	return problem.New(http.StatusBadRequest, "version is missing").
		WithHint("give the version that was read and is replaced, 0 when the group has none yet: nobody's change is overwritten unseen then")
}

func (a *API) putAgentConfig(q *request) error {
	var b configPutBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.Version == nil {
		return errNoBase()
	}
	v, err := a.cfg.AgentConfigs.Put(q.ctx(), q.r.PathValue("group"), agentconfig.Change{Body: b.Body, Base: *b.Version, Note: b.Note}, q.configBy())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, v)
}

func (a *API) rollbackAgentConfig(q *request) error {
	var b configRollbackBody
	if err := q.body(&b); err != nil {
		return err
	}
	switch {
	case b.Version == nil:
		return errNoBase()
	case b.To == 0:
		return problem.New(http.StatusBadRequest, "to: want the number of an earlier version")
	}
	v, err := a.cfg.AgentConfigs.Rollback(q.ctx(), q.r.PathValue("group"), b.To, agentconfig.Change{Base: *b.Version, Note: b.Note}, q.configBy())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, v)
}

func (a *API) removeAgentConfig(q *request) error {
	if q.r.URL.Query().Get("version") == "" {
		return errNoBase()
	}
	return q.done(a.cfg.AgentConfigs.Remove(q.ctx(), q.r.PathValue("group"), uint64(q.v.int("version")), q.configBy()))
}

func (a *API) agentConfigHistory(q *request) error {
	return q.answer(http.StatusOK, configHistoryAnswer{a.cfg.AgentConfigs.History(q.r.PathValue("group"))})
}

func (a *API) diffAgentConfig(q *request) error {
	group := q.r.PathValue("group")
	to, err := a.cfg.AgentConfigs.Version(group, uint64(q.v.int("to")))
	if err != nil {
		return err
	}
	from := agentconfig.Version{Version: uint64(q.v.int("from"))}
	if from.Version == 0 {
		from.Version = to.Version - 1
	}
	if from.Version > 0 {
		if from, err = a.cfg.AgentConfigs.Version(group, from.Version); err != nil {
			return err
		}
	}
	out := configDiffAnswer{From: from.Version, To: to.Version, Diff: []agentconfig.DiffLine{}}
	out.Diff = append(out.Diff, agentconfig.Diff(from.Body, to.Body)...)
	return q.answer(http.StatusOK, out)
}

func (a *API) setAgentGroup(q *request) error {
	var b agentGroupBody
	if err := q.body(&b); err != nil {
		return err
	}
	id := q.r.PathValue("id")
	if _, known := a.cfg.Fleet.Agent(id); !known {
		return noAgent(q)
	}
	if b.Group == agentconfig.DefaultGroup {
		b.Group = ""
	}
	return q.done(a.cfg.Auth.SetAgentGroup(q.ctx(), id, b.Group, q.p.Actor(), auth.RemoteAddr(q.r)))
}

// agentConfigProblem answers a text that agents would refuse; nil for other errors.
func agentConfigProblem(err error) *problem.Problem {
	bad, ok := errors.AsType[*agentconfig.Error](err)
	if !ok {
		return nil
	}
	p := problem.New(http.StatusBadRequest, fmt.Sprintf("%d problems in the configuration", len(bad.Problems)))
	p.Detail = bad.Error()
	return p.WithHint("docs/agents.md lists the keys; `triward agents config set --check FILE` names every problem with its line")
}

// agentConfigErrors is how sentinels of the configurations are answered.
func agentConfigErrors() []problem.Rule {
	return []problem.Rule{
		{Is: agentconfig.ErrNotFound, Status: http.StatusNotFound},
		{Is: agentconfig.ErrInvalid, Status: http.StatusBadRequest},
		{Is: agentconfig.ErrConflict, Status: http.StatusConflict, Hint: "read it again and repeat the change"},
		{Is: agentconfig.ErrLimit, Status: http.StatusUnprocessableEntity, Hint: "remove configurations of groups that are no longer needed"},
	}
}
