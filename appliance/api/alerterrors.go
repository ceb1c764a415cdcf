package api

import (
	"errors"
	"net/http"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/problem"
)

func asRuleError(err error) (*rules.Error, bool) { return errors.AsType[*rules.Error](err) }

// alertProblem answers errors of the alerting that say what is wrong with a document; nil for others.
func alertProblem(err error) *problem.Problem {
	if bad, ok := asRuleError(err); ok {
		return problem.Wrap(http.StatusBadRequest, bad).WithHint("`triward rules check FILE` names every problem with its line")
	}
	if bad, ok := errors.AsType[*route.Error](err); ok {
		return problem.Wrap(http.StatusBadRequest, bad).WithHint("docs/alerting.md describes the document")
	}
	return nil
}

// alertErrorRules is how sentinels of the alerting are answered.
func alertErrorRules() []problem.Rule {
	return []problem.Rule{
		{Is: alerting.ErrNotFound, Status: http.StatusNotFound},
		{Is: alerting.ErrInvalid, Status: http.StatusBadRequest},
		{Is: alerting.ErrOldNodes, Status: http.StatusConflict, Hint: "upgrade every node, then run `triward upgrade finalize`"},
		{Is: alerting.ErrState, Status: http.StatusConflict},
		{Is: alerting.ErrConflictNow, Status: http.StatusConflict, Hint: "read it again and repeat the change"},
		{Is: alerting.ErrConflict, Status: http.StatusConflict, Hint: "read it again and repeat the change"},
		{Is: alerting.ErrLimit, Status: http.StatusUnprocessableEntity, Hint: "remove some that are no longer needed"},
		{
			Is: alerting.ErrNoSealer, Status: http.StatusConflict,
			Hint: "use a receiver without a password or token, or give the cluster a key ring first",
		},
	}
}
