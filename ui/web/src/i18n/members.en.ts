// The texts of members and versions on the page Cluster.
export const members = {
  title: 'Members',
  hint: 'A new node receives everything first and gets its vote from the leader when it has caught up. What would endanger the majority is refused.',
  node: 'Node',
  part: {
    leader: 'leads',
    voter: 'votes',
    readOnly: 'read-only',
    joining: 'joining, no vote yet',
    leaving: 'being removed',
    unreachable: 'unreachable',
  },
  version: 'Version',
  formats: 'Formats up to',
  actions: 'Actions',
  lead: 'Hand leadership over',
  leadTo: 'Make it lead',
  promote: 'Give it a vote',
  demote: 'Make it read-only',
  demoteAsk: (id: string) =>
    `Take the vote of ${id} away? It goes on receiving everything and answering reads, but no write waits for it and it cannot lead.`,
  remove: 'Remove',
  removeTitle: (id: string) => `Remove node ${id}`,
  removeHint:
    'It ends and cannot start again with what it has; its certificate no longer lets it in. To come back its machine joins anew and takes everything from the others. The machine holds the cluster’s keys until its TLS directory is deleted there.',
  removeType: (id: string) => `Type ${id} to go on`,
  removeDo: 'Remove for good',
  cancel: 'Cancel',
  costs: (voters: number) =>
    voters === 1
      ? 'One voter: while it is down nothing is taken, and with its disk the data is lost. Add nodes until there are three.'
      : voters === 2
        ? 'Two voters: both are needed. It is a step on the way to three.'
        : voters % 2 === 0
          ? `${voters} voters bear no more failures than ${voters - 1}.`
          : '',
  removed: (id: string, by: string, when: string) => `${id} was removed by ${by}, ${when}`,
  format: (n: number) => `Format of the cluster: ${n}.`,
  finalize: (n: number) => `Raise to format ${n}`,
  finalizeAsk: (n: number) =>
    `Every member knows format ${n}. After this no node can go back to an older version. Raise the format?`,
  blocked: 'A rolling upgrade is under way and cannot be finalized yet:',
};
