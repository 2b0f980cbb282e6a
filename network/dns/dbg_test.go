package dns
import ("testing";"github.com/minid/minid/network/nft";"github.com/google/go-cmp/cmp")
func TestDbg(t *testing.T){
 path:=namespace(t,"x"); w:=wanted{UDP:61053,TCP:61054}
 if err:=w.set(path);err!=nil{t.Fatal(err)}
 c,_:=nft.Connect(path); defer c.CloseLasting()
 ch,err:=c.ListChain(table(),chainName); t.Logf("%+v %v",ch,err)
 rules,err:=c.GetRules(table(),chain()); t.Log(len(rules),err)
 for i,r:=range w.rules(){ t.Log(cmp.Diff(r.exprs,rules[i].Exprs)) }
}
